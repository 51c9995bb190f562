"""GPTQ on TFLite files: the weights that are rounded, by inputs that are truly theirs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_converter.data import open_data
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.quantize.tflite_rounding import CONV_2D, Inputs, Layer, layers
from edgeferry_converter.sources.tflite_edit import tree_of
from edgeferry_runtime import Bundle, load
from edgeferry_runtime.errors import ConversionError, UsageError
from edgeferry_runtime.tensors import Array

pytest.importorskip("ai_edge_quantizer")

HERE = Path(__file__).parent
MODELS = HERE / "models"
FLOAT, DATA = MODELS / "digits.tflite", MODELS / "digits.npz"


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", HERE / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(path: Path) -> dict[str, Array]:
    with load(path) as model:
        found = [model.run({"image": picture[np.newaxis]}) for picture in np.load(DATA)["image"]]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def noise(path: Path, name: str = "features") -> float:
    return float(np.mean((answers(path)[name] - answers(FLOAT)[name]) ** 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Bundle]:
    folder = tmp_path_factory.mktemp("rounding")
    return {
        (quantize, rounding): convert(
            FLOAT, folder / f"{quantize}-{rounding}", quantize=quantize, calibrate=DATA, rounding=rounding
        )
        for quantize in ("weight-only", "dynamic", "int8", "int16x8", "dynamic-int4")
        for rounding in ("nearest", "gptq")
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["weight-only", "dynamic", "int16x8"])
def test_less_noise_where_weights_make_most_of_it(precision: str, made: dict[tuple[str, str], Bundle]) -> None:
    assert noise(made[precision, "gptq"].artifact) < 0.6 * noise(made[precision, "nearest"].artifact)


@pytest.mark.slow
def test_int8_and_int4_stay_as_close_as_they_were(made: dict[tuple[str, str], Bundle]) -> None:
    """There activations make the noise, and only one layer of these is int4."""
    for precision in ("int8", "dynamic-int4"):
        assert noise(made[precision, "gptq"].artifact, "digit") < 1.1 * noise(
            made[precision, "nearest"].artifact, "digit"
        )


@pytest.mark.slow
def test_the_bundle_says_what_was_rounded_how(made: dict[tuple[str, str], Bundle]) -> None:
    gptq, nearest = made["int8", "gptq"], made["int8", "nearest"]
    assert gptq.manifest.verification["rounding"] == {"gptq": 3}
    assert "rounding" not in nearest.manifest.verification
    assert 'rounding = "gptq"' in (gptq.path / "recipe.toml").read_text()
    assert gptq.artifact.stat().st_size == nearest.artifact.stat().st_size
    assert not (gptq.path / "aeq_recipe.json").exists(), "ai-edge-quantizer would not make this artifact again"


@pytest.mark.slow
def test_scales_and_everything_else_stay(made: dict[tuple[str, str], Bundle]) -> None:
    flatbuffers = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
    graphs = [flatbuffers.read_model(str(made["int8", r].artifact)).subgraphs[0] for r in ("nearest", "gptq")]
    for a, b in zip(graphs[0].tensors, graphs[1].tensors, strict=True):
        assert (a.name, a.type) == (b.name, b.type)
        if a.quantization is not None:
            np.testing.assert_array_equal(a.quantization.scale, b.quantization.scale)


@pytest.mark.slow
def test_the_same_bytes_each_time(made: dict[tuple[str, str], Bundle], tmp_path: Path) -> None:
    again = convert(FLOAT, tmp_path / "b", quantize="int8", calibrate=DATA, rounding="gptq")
    assert again.artifact.read_bytes() == made["int8", "gptq"].artifact.read_bytes()


@pytest.mark.slow
def test_auto_calibration_sees_inputs_in_the_same_pass(tmp_path: Path) -> None:
    bundle = convert(FLOAT, tmp_path / "b", quantize="int8", calibrate=DATA, rounding="gptq", calibration="auto")
    assert bundle.manifest.verification["rounding"] == {"gptq": 3}


@pytest.mark.slow
def test_overridden_layers_are_rounded_where_they_are_integers(tmp_path: Path) -> None:
    override = (Override("none", operator="CONV_2D"), Override("dynamic", operator="FULLY_CONNECTED"))
    bundle = convert(FLOAT, tmp_path / "b", quantize="int8", calibrate=DATA, rounding="gptq", override=override)
    assert bundle.manifest.verification["rounding"] == {"gptq": 2}


def test_every_kind_of_layer_reads_its_true_inputs() -> None:
    """What was seen of a layer, times its weights, is what LiteRT computes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(FLOAT), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(DATA)["image"][:1])
    interpreter.invoke()
    tree = tree_of(FLOAT.read_bytes())
    graph = tree.subgraphs[0]
    names = {tensor.name.decode(): i for i, tensor in enumerate(graph.tensors)}
    output = {o.inputs[1]: o.outputs[0] for o in graph.operators if len(o.inputs) == 3}
    found = list(layers(tree, 0))
    assert [layer.kind for layer in found] == [4, 3, 9]
    for layer in found:
        expected = interpreter.get_tensor(output[names[layer.weight]])
        rows = layer.inputs(interpreter.get_tensor(names[layer.source]), 10_000, 0)
        actual = np.einsum("rgk,gck->rgc", rows, layer.rows).reshape(len(rows), -1) + layer.bias
        if layer.kind != 9:
            actual = np.maximum(actual, 0)
        np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=1e-5)
        np.testing.assert_array_equal(layer.stored(layer.rows), layer.values)


def test_a_convolution_in_groups_with_steps_and_gaps() -> None:
    random = np.random.default_rng(0)
    image, weights = random.standard_normal((2, 9, 8, 6)), random.standard_normal((4, 3, 2, 3))
    options = SimpleNamespace(padding=1, strideH=2, strideW=1, dilationHFactor=2, dilationWFactor=3)
    layer = Layer(CONV_2D, "x", "w", weights, None, options, groups=2)
    rows = layer.inputs(image, 10_000, 0)
    actual = np.einsum("rgk,gck->rgc", rows, layer.rows).reshape(2, 3, 5, 4)
    for n, y, x, c in np.ndindex(actual.shape):
        patch = image[n, 2 * y : 2 * y + 5 : 2, x : x + 4 : 3, 3 * (c // 2) : 3 * (c // 2) + 3]
        assert actual[n, y, x, c] == pytest.approx(np.sum(patch * weights[c]))
    np.testing.assert_array_equal(layer.stored(layer.rows), weights)


def test_few_inputs_of_many_samples_come_from_everywhere() -> None:
    tree = tree_of(FLOAT.read_bytes())
    inputs, first = Inputs(tree, 0, samples=100_000), next(layers(tree, 0))
    picture = np.zeros((1, 8, 8, 1), np.float32)
    for _ in range(64):
        inputs.observe(first.source, picture)
    assert inputs.moments[first.weight].samples == 64
    assert sum(map(len, inputs.moments[first.weight].waiting)) == 64, "one of each"
    places = {int(layer_row) for n in range(64) for layer_row in first.inputs(indexed(), 1, n)[:, 0, 4]}
    assert places == set(range(64))


def indexed() -> Array:
    """A picture whose pixels are numbered."""
    return np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"to": "onnx"}, "is for TFLite"),
        ({"quantize": "fp16"}, "rounds integer weights, and --quantize fp16 has none"),
        ({"quantize": "dynamic-int4", "block_size": 32}, "--block-size is 32"),
        ({"calibrate": None}, "there is no data to take it from"),
    ],
)
def test_what_it_is_not_for_is_refused(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    source = MODELS / "digits.onnx" if "to" in changes else FLOAT
    options = {"quantize": "dynamic", "calibrate": DATA, "rounding": "gptq", **changes}
    with pytest.raises(UsageError, match=reason):
        convert(source, tmp_path / "b", **options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_a_bias_that_others_read_too_becomes_the_layers_own(
    precision: str, planted: ModuleType, tmp_path: Path
) -> None:
    """Keras stores the zeros of depthwise convolutions of one size once."""
    net = planted.Tflite()
    x, random = net.tensor("x", (1, 16)), np.random.default_rng(0)
    zeros = net.tensor("zeros", (16,), np.zeros(16, np.float32))
    for name in ("a", "b"):
        weights = net.tensor(f"{name}/w", (16, 16), random.standard_normal((16, 16)).astype(np.float32))
        x = net.operator("FULLY_CONNECTED", (x, weights, zeros), net.tensor(name, (1, 16)))
    (tmp_path / "net.tflite").write_bytes(net.file((0,), (x,)))
    np.save(tmp_path / "x.npy", planted.samples() + 1)
    options = {"quantize": precision, "calibrate": tmp_path / "x.npy", "rounding": "gptq"}
    bundle = convert(tmp_path / "net.tflite", tmp_path / "b", **options)
    assert bundle.manifest.verification["rounding"] == {"gptq": 2}
    tree = tree_of(bundle.artifact.read_bytes())
    graph = tree.subgraphs[0]
    biases = [graph.tensors[o.inputs[2]] for o in graph.operators if len(o.inputs) == 3]
    assert len({bias.buffer for bias in biases}) == 2
    assert all(np.any(tree.buffers[bias.buffer].data) for bias in biases), "each takes its layer's mean error"


def test_a_dead_channel_stays_what_it_is(planted: ModuleType, tmp_path: Path) -> None:
    """Its scale is so small that no 32-bit bias is large enough."""
    (tmp_path / "dead.tflite").write_bytes(planted.dead())
    np.save(tmp_path / "x.npy", planted.samples())
    noises = []
    for rounding in ("nearest", "gptq"):
        target = tmp_path / f"{rounding}.tflite"
        samples = open_data(tmp_path / "x.npy").bind(load(tmp_path / "dead.tflite").inputs)
        quantize("tflite", Job(tmp_path / "dead.tflite", target, "int8", samples=samples, rounding=rounding))
        with load(target) as model, load(tmp_path / "dead.tflite") as whole:
            noises.append(np.mean([(model(x[None]) - whole(x[None])) ** 2 for x in planted.samples()]))
    assert noises[1] < 1.1 * noises[0]


def test_weights_that_two_operators_share_are_left(tmp_path: Path) -> None:
    flatbuffers = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
    model = flatbuffers.read_model(str(FLOAT))
    for operator in [o for o in model.subgraphs[0].operators if len(o.inputs) == 3]:
        twin = type(operator)()
        vars(twin).update(vars(operator))
        model.subgraphs[0].operators.append(twin)
        twin.outputs = [len(model.subgraphs[0].tensors)]
        tensor = type(model.subgraphs[0].tensors[0])()
        vars(tensor).update(vars(model.subgraphs[0].tensors[operator.outputs[0]]))
        tensor.name = tensor.name + b"_twin"
        model.subgraphs[0].tensors.append(tensor)
    shared = tmp_path / "shared.tflite"
    flatbuffers.write_model(model, str(shared))
    samples = open_data(DATA).bind(load(shared).inputs)
    with pytest.raises(ConversionError, match="whose integer weights are its own"):
        quantize("tflite", Job(shared, tmp_path / "out.tflite", "dynamic", samples=samples, rounding="gptq"))
