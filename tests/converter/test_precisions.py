"""Every precision that the table allows, made and run in its engine, and the same bytes each time."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter import Recipe, convert, inspect, plan
from edgeferry_converter.data import Samples, open_data
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize import Job, Outcome, quantize, support, tflite_recipe
from edgeferry_converter.quantize.onnx_weights import Layout, integers, pack_int4
from edgeferry_converter.quantize.support import Way, refusal, ways
from edgeferry_runtime.errors import ConversionError, MissingFileError, UsageError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import TOLERANCES, compare_output

onnx = pytest.importorskip("onnx")
pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
FLOAT = {to: MODELS / f"digits.{to}" for to in ("tflite", "onnx")}
WAYS = [way for to in FLOAT for way in ways(to) if way.quantize != "none"]


def samples_of(to: str) -> Samples:
    with load(FLOAT[to]) as model:
        return open_data(MODELS / "digits.npz").bind(model.inputs)


def make(way: Way, target: Path, **options: object) -> Outcome:
    job = Job(FLOAT[way.to], target, way.quantize, way.io_dtype, samples_of(way.to))
    return quantize(way.to, replace(job, block_size=way.block_size, activations=way.activations, **options))


def stored(path: Path) -> dict[str, int]:
    """Read the weights' dtypes of a TFLite file: by output name what the operator multiplies with."""
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model(str(path)).subgraphs[0]
    return {
        graph.tensors[op.outputs[0]].name.decode(): graph.tensors[op.inputs[1]].type
        for op in graph.operators
        if len(op.inputs) > 2
    }


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, vars(way).values())))
def test_what_the_table_allows_runs_and_comes_out_the_same(way: Way, tmp_path: Path) -> None:
    outcome = make(way, tmp_path / "model")
    bits = {"fp16": "float16"}.get(way.quantize, "int4" if way.quantize.endswith("int4") else "int8")
    assert outcome.layers[bits] >= 1
    tolerance = TOLERANCES[way.quantize]
    with load(tmp_path / "model") as model, load(FLOAT[way.to]) as whole:
        assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {way.io_dtype}
        assert [s.name for s in model.outputs] == [s.name for s in whole.outputs]
        answers = [[m.run(sample) for sample in samples_of(way.to)] for m in (whole, model)]
    for name in ("digit", "features"):
        error = compare_output(name, *(np.stack([a[name] for a in part]) for part in answers))
        assert not tolerance.violations(error)
        assert error.cosine > 0.99
    make(way, tmp_path / "again")
    assert (tmp_path / "model").read_bytes() == (tmp_path / "again").read_bytes()


def test_every_other_combination_is_refused_with_a_reason(tmp_path: Path) -> None:
    axes = (FLOAT, TOLERANCES, support.BLOCK_SIZES, support.IO_DTYPES, support.ACTIVATIONS)
    every = {Way(*values) for values in itertools.product(*axes)}
    refused = every - {way for to in FLOAT for way in ways(to)}
    for way in refused:
        recipe = Recipe(**vars(way), calibrate=MODELS / "digits.npz")
        with pytest.raises(UsageError) as caught:
            plan(FLOAT[way.to], tmp_path / "b", recipe)
        found = refusal(way)
        assert found is not None
        assert caught.value.reason == found.reason
        assert caught.value.subject.startswith("--")
    assert len(refused) > 100


def test_16_bit_activations_are_symmetric_and_weights_8_bit(tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    make(Way("tflite", "int16x8"), tmp_path / "m")
    tensors = flatbuffer_utils.read_model(str(tmp_path / "m")).subgraphs[0].tensors
    activations = [t for t in tensors if t.type == 7]
    assert len(activations) > 3
    assert not any(np.any(t.quantization.zeroPoint) for t in activations)
    assert sum(t.type == 9 for t in tensors) == 3


def test_onnx_stores_activations_as_asked(tmp_path: Path) -> None:
    kinds = {}
    for name, way in {
        "S8S8": Way("onnx", "int8"),
        "U8S8": Way("onnx", "int8", activations="uint8"),
        "16x8": Way("onnx", "int16x8"),
    }.items():
        make(way, tmp_path / "m")
        graph = onnx.load(str(tmp_path / "m")).graph
        types = {t.name: t.data_type for t in graph.initializer}
        kinds[name] = {types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert kinds == {"S8S8": {3}, "U8S8": {2}, "16x8": {5}}


def test_unsigned_borders_are_signed_ones_shifted_by_128(tmp_path: Path) -> None:
    for io_dtype in ("int8", "uint8"):
        make(Way("tflite", "int8", io_dtype=io_dtype), tmp_path / io_dtype)
    with load(tmp_path / "int8") as signed, load(tmp_path / "uint8") as unsigned:
        for a, b in zip((*signed.inputs, *signed.outputs), (*unsigned.inputs, *unsigned.outputs), strict=True):
            assert a.quantization is not None
            assert b.quantization is not None
            assert a.quantization.scale == b.quantization.scale
            assert a.quantization.zero_point[0] + 128 == b.quantization.zero_point[0]
        for sample in samples_of("tflite").take(8):
            one, two = signed.run(sample), unsigned.run(sample)
            assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("base", "override", "types"),
    [
        ("int8", Override("none", operator="FULLY_CONNECTED"), [9, 9, 0]),
        ("int8", Override("int16x8", operator="FULLY_CONNECTED"), [9, 9, 9]),
        ("int8", Override("dynamic", operator="CONV_2D"), [9, 9, 9]),
        ("dynamic", Override("dynamic-int4", operator="CONV_2D"), [9, 9, 17]),
        ("dynamic", Override("int8", operator="CONV_2D"), [9, 9, 9]),
        ("none", Override("dynamic", operator="FULLY_CONNECTED"), [0, 0, 9]),
    ],
)
def test_layers_of_a_tflite_model_have_a_precision_of_their_own(
    base: str, override: Override, types: list[int], tmp_path: Path
) -> None:
    make(Way("tflite", base), tmp_path / "m", overrides=(override,))
    assert sorted(stored(tmp_path / "m").values()) == sorted(types)
    with load(tmp_path / "m") as model, load(FLOAT["tflite"]) as whole:
        for sample in samples_of("tflite").take(8):
            np.testing.assert_allclose(model.run(sample)["digit"], whole.run(sample)["digit"], atol=0.2)


def test_one_layer_by_its_name_and_the_last_word(tmp_path: Path) -> None:
    names = list(stored(FLOAT["tflite"]))
    overrides = (Override("none", "*"), Override("int8", names[0]))
    make(Way("tflite", "int8"), tmp_path / "m", overrides=overrides)
    assert [kind == 9 for kind in stored(tmp_path / "m").values()] == [True, False, False]


@pytest.mark.parametrize("quantize_as", ["fp16", "dynamic", "weight-only", "weight-only-int4", "int8", "int16x8"])
def test_layers_of_an_onnx_model_stay_float(quantize_as: str, tmp_path: Path) -> None:
    kind = "Conv" if quantize_as == "weight-only-int4" else "Gemm"
    outcome = make(Way("onnx", quantize_as), tmp_path / "m", overrides=(Override("none", operator=kind),))
    assert outcome.layers["float32"] >= 1
    graph = onnx.load(str(tmp_path / "m")).graph
    weights = {t.name: t.data_type for t in graph.initializer}
    assert all(weights.get(node.input[1]) == 1 for node in graph.node if node.op_type == kind)
    with load(tmp_path / "m") as model:
        model.run(next(iter(samples_of("onnx"))))


@pytest.mark.parametrize("to", FLOAT)
def test_a_pattern_that_matches_nothing_is_an_error(to: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"matches none of the .* layers; .*nearest are"):
        make(Way(to, "dynamic"), tmp_path / "m", overrides=(Override("none", "*nowhere*"),))
    assert not (tmp_path / "m").exists()


def test_an_operator_without_a_precision_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SOFTMAX cannot be dynamic in TFLite"):
        make(Way("tflite", "int8"), tmp_path / "m", overrides=(Override("dynamic", operator="SOFTMAX"),))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe("onnx", "dynamic", override=(Override("int8", "x"),)), "give --calibrate"),
        (Recipe("onnx", override=(Override("none", "x"),)), "nothing to override"),
        (Recipe("tflite", override=(Override("none", "x"),)), "nothing to override"),
        (Recipe("tflite", "dynamic", override=(Override("int8", "x"),)), "give --calibrate"),
        (Recipe("tflite", "int16x8"), "give --calibrate"),
        (Recipe("onnx", "dynamic", aeq_recipe=Path("x.json")), "is a recipe for TFLite"),
        (Recipe("tflite", aeq_recipe=Path("x.json")), "tells no tolerance"),
        (Recipe("tflite", "int8", io_dtype="int8", aeq_recipe=Path("x.json")), "cannot be combined with x.json"),
    ],
)
def test_a_recipe_that_no_engine_runs_is_refused_when_it_is_asked_for(
    recipe: Recipe, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        plan(FLOAT[recipe.to], tmp_path / "b", recipe)


@pytest.mark.parametrize("to", FLOAT)
def test_int4_needs_a_matrix(to: str, tmp_path: Path) -> None:
    kind = "FULLY_CONNECTED" if to == "tflite" else "Gemm"
    with pytest.raises(ConversionError, match=r"nothing else becomes int4 by itself.*weight-only"):
        make(Way(to, "weight-only-int4"), tmp_path / "m", overrides=(Override("none", operator=kind),))


@pytest.mark.parametrize(("depth", "block_size"), [(64, 32), (72, 32), (7, 0), (33, 64)])
def test_blocks_reach_over_any_depth(depth: int, block_size: int) -> None:
    weights = np.random.default_rng(0).standard_normal((depth, 5)).astype("f4")
    found, scale = integers(weights, Layout(4, 1, block_size))
    assert np.abs(found).max() <= 7
    assert scale.shape == ((-(-depth // block_size), 5) if block_size else (5,))
    wide = np.repeat(scale, block_size, axis=0)[:depth] if block_size else scale
    assert np.all(np.abs(found * wide - weights) <= wide / 2 * 1.0001)


@pytest.mark.parametrize("block_size", [0, 32])
@pytest.mark.parametrize("flipped", [True, False])
def test_a_ragged_matrix_runs_in_onnx_runtime(flipped: bool, block_size: int, tmp_path: Path) -> None:
    helper, random = onnx.helper, np.random.default_rng(0)
    weights = random.standard_normal((5, 71) if flipped else (71, 5)).astype("f4")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(flipped))
    values = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", (1, 71)), ("y", (1, 5)))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [onnx.numpy_helper.from_array(weights, "w")])
    source = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(source))
    quantize("onnx", Job(source, tmp_path / "q.onnx", "weight-only-int4", block_size=block_size))
    x = random.standard_normal((1, 71)).astype("f4")
    with load(source) as whole, load(tmp_path / "q.onnx") as model:
        error = compare_output("y", whole.run({"x": x})["y"], model.run({"x": x})["y"])
    assert error.snr_db > 10


@pytest.mark.parametrize("block_size", [32, 64])
def test_blocks_of_weights_alone_meet_float_activations_in_tflite(block_size: int, tmp_path: Path) -> None:
    """The same as a float model that holds the nearest values which the blocks can have."""
    from ai_edge_litert.tools import flatbuffer_utils

    make(Way("tflite", "weight-only-int4", block_size), tmp_path / "m.tflite")
    assert not (tmp_path / tflite_recipe.FILE).exists(), "the quantizer's recipe does not say it all"
    model = flatbuffer_utils.read_model(str(FLOAT["tflite"]))
    graph = model.subgraphs[0]
    (head,) = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == 9]
    weight = graph.tensors[head.inputs[1]]
    values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32).reshape(weight.shape)
    found, scale = integers(values.T, Layout(4, 1, block_size))
    held = (found * np.repeat(scale, block_size, axis=0)).T.astype(np.float32)
    model.buffers[weight.buffer].data = np.frombuffer(held.tobytes(), np.uint8)
    flatbuffer_utils.write_model(model, str(tmp_path / "held.tflite"))
    (shown,) = [layer for layer in inspect(tmp_path / "m.tflite").layers if layer.operator == "FULLY_CONNECTED"]
    assert (shown.precision, shown.parameters) == ("float32 x int4", values.size + len(held))
    make(
        Way("tflite", "weight-only-int4", block_size),
        tmp_path / "head.tflite",
        overrides=(Override("none", operator="CONV_2D"), Override("none", operator="DEPTHWISE_CONV_2D")),
    )
    with load(tmp_path / "head.tflite") as blocks, load(tmp_path / "held.tflite") as whole:
        for sample in samples_of("tflite").take(8):
            np.testing.assert_allclose(blocks.run(sample)["digit"], whole.run(sample)["digit"], atol=1e-5)


def test_two_values_share_a_byte() -> None:
    assert pack_int4(np.int8([[1, -1, 7]])) == bytes([0xF1, 0x07])


def test_a_bundle_holds_the_quantizers_recipe_which_makes_the_same_artifact(tmp_path: Path) -> None:
    override = Override("none", operator="SOFTMAX")
    data = MODELS / "digits.npz"
    first = convert(
        FLOAT["tflite"], tmp_path / "a", quantize="int8", calibrate=data, io_dtype="uint8", override=[override]
    )
    written = first.path / tflite_recipe.FILE
    assert tflite_recipe.FILE in first.manifest.files
    assert first.manifest.verification["layers"] == {"int8": 3}
    recipe = Recipe.from_file(written)
    assert recipe.quantize == "int8"
    second = convert(FLOAT["tflite"], tmp_path / "b", replace(recipe, calibrate=data))
    assert second.artifact.read_bytes() == first.artifact.read_bytes()
    assert Recipe.from_toml(second.path / "recipe.toml").aeq_recipe is not None


@pytest.mark.parametrize("precision", [p for p in TOLERANCES if p != "none"])
def test_a_recipe_of_the_quantizers_own_tells_its_precision(precision: str) -> None:
    from ai_edge_quantizer import recipe_manager

    manager = recipe_manager.RecipeManager()
    tflite_recipe.add(manager, precision, ".*", "FULLY_CONNECTED")
    entries = json.loads(json.dumps(manager.get_quantization_recipe()))
    assert tflite_recipe.precision(entries) == precision
    assert tflite_recipe.needs_ranges(entries) == (precision in support.STATIC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("{}", "is no recipe of ai-edge-quantizer"),
        ("[]", "is no recipe of ai-edge-quantizer"),
        ('[{"regex": ".*"}]', "is no recipe of ai-edge-quantizer"),
        ('[{"regex": "(", "operation": "*", "algorithm_key": "no_quantize"}]', "cannot be read"),
        ('[{"regex": ".*", "operation": "*", "algorithm_key": "x"}]', "cannot be read"),
        ('[{"regex": ".*", "operation": "*", "algorithm_key": "x", "op_config": 3}]', "cannot be read"),
    ],
)
def test_a_json_that_is_no_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        Recipe.from_file(tmp_path / "r.json")
    with pytest.raises(MissingFileError, match="no such recipe"):
        Recipe.from_file(tmp_path / "nowhere.json")


@pytest.mark.slow
def test_one_keras_model_gives_one_artifact_in_every_process(keras_cnn: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((16, 8, 8, 1)).astype("f4"))
    code = (
        "import sys; from edgeferry_converter import convert\n"
        "source, data, folder = sys.argv[1:]\n"
        "for to in ('tflite', 'onnx'):\n"
        "    made = convert(source, f'{folder}-{to}', to=to, name='net', quantize='int8', calibrate=data)\n"
        "    print(made.manifest.files[made.manifest.artifact])\n"
    )
    said = []
    for seed in ("1", "2"):
        arguments = [str(keras_cnn), str(tmp_path / "x.npy"), str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].split()) == 2
