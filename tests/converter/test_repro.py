"""A bug report holds the model's shape and nothing of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_converter.recipe import Recipe
from edgeferry_converter.repro import write_report
from edgeferry_converter.repro.noise import noise, with_noise
from edgeferry_converter.sources import SourceSpec, detect, open_source
from edgeferry_runtime.errors import ConversionError, UnknownFormatError
from edgeferry_runtime.feeds import random_feeds
from edgeferry_runtime.model import load

pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
CHUNK = 16
"""Bytes of weights that must not be found again."""


def chunks(values: np.ndarray) -> set[bytes]:
    """Return pieces of a tensor's bytes, of those that tell anything."""
    data = values.tobytes()
    pieces = {data[i : i + CHUNK] for i in range(0, len(data) - CHUNK + 1, CHUNK)}
    return {piece for piece in pieces if len(set(piece)) > 4}


def onnx_weights(path: Path) -> list[np.ndarray]:
    import onnx
    from onnx import numpy_helper

    return [numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer]


def tflite_weights(path: Path) -> list[np.ndarray]:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(path.read_bytes())
    floats = {t.buffer for graph in model.subgraphs for t in graph.tensors if t.type == 0}
    return [np.asarray(model.buffers[i].data, np.uint8) for i in floats if model.buffers[i].data is not None]


def assert_clean(zipped: Path, weights: list[np.ndarray]) -> None:
    """Search every file of a zip for pieces of weights and of probe data."""
    wanted = set().union(*(chunks(w) for w in weights))
    assert len(wanted) > 50, "there is something to search for"
    with zipfile.ZipFile(zipped) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            found = [piece for piece in wanted if piece in content]
            assert not found, f"{len(found)} pieces of weights in {name}"


@pytest.mark.parametrize(("to", "weights"), [("tflite", tflite_weights), ("onnx", onnx_weights)])
def test_nothing_of_the_weights_is_inside_and_the_model_still_runs(to: str, weights, tmp_path: Path) -> None:
    source = MODELS / f"digits.{to}"
    recipe = Recipe(to=to, quantize="int8", calibrate=MODELS / "digits.npz")
    error = ConversionError(source, f"failed in {MODELS / 'x'} at last", "think")
    write_report(tmp_path / "r.zip", str(source), recipe, error)
    assert_clean(tmp_path / "r.zip", [*weights(source), np.load(MODELS / "digits.npz")["image"]])
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        archive.extractall(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"float.{to}", "recipe.toml", "report.json", f"source.{to}",
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["error"] == f"…/digits.{to}: failed in …/x at last; think"
    assert report["tools"]["edgeferry"] and report["not_included"] == []
    assert str(MODELS) not in (tmp_path / "out" / "recipe.toml").read_text()
    assert Recipe.from_toml(tmp_path / "out" / "recipe.toml").quantize == "int8"
    with load(source) as model, load(tmp_path / "out" / f"float.{to}") as noisy:
        assert (noisy.inputs, noisy.outputs) == (model.inputs, model.outputs)
        feeds = random_feeds(model.inputs)
        a, b = model.run(feeds), noisy.run(feeds)
        assert all(np.isfinite(value).all() for value in b.values())
        assert not any(np.allclose(a[name], b[name]) for name in a)


def test_weights_in_attributes_and_functions_are_replaced_too(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    tensor = helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(values[0]))
    floats = helper.make_node("Constant", [], ["b"], value_floats=values[1].tolist())
    inner = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values[2]))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "Weights", [], ["c"], [inner], opsets[:1])
    nodes = [tensor, floats, helper.make_node("Weights", [], ["c"], domain="mine")]
    nodes.append(helper.make_node("Sum", ["x", "a", "b", "c"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [512]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, ir_version=9, opset_imports=opsets, functions=[function])
    onnx.save(model, str(tmp_path / "m.onnx"))
    with_noise(tmp_path / "m.onnx", "onnx", tmp_path / "noisy.onnx")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "noisy.onnx", "m")
    assert_clean(tmp_path / "z.zip", list(values))
    with load(tmp_path / "noisy.onnx") as noisy:
        assert np.isfinite(noisy(np.zeros(512, np.float32))).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_keras_files_keep_their_structure_alone(kind: str, keras_models: Path, tmp_path: Path) -> None:
    import h5py

    source, target = keras_models / f"cnn.{kind}", tmp_path / f"noisy.{kind}"
    with_noise(source, kind, target)
    assert detect(SourceSpec(target)) == kind
    old, new = open_source(SourceSpec(source)), open_source(SourceSpec(target))
    assert (old.inputs, old.outputs) == (new.inputs, new.outputs)
    weights: list[np.ndarray] = []
    with h5py.File(keras_models / "cnn.h5") as file:
        file.visititems(lambda _, item: weights.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        if kind == "keras":
            with zipfile.ZipFile(target) as inner:
                archive.writestr("weights", inner.read("model.weights.h5"))
        else:
            archive.write(target, "file")
    assert_clean(tmp_path / "z.zip", [w for w in weights if isinstance(w, np.ndarray) and w.dtype.kind == "f"])


@pytest.mark.slow
def test_state_dicts_keep_their_names_alone(torch_factory, tmp_path: Path) -> None:
    from edgeferry_converter.sources.torch_weights import read_state

    with_noise(torch_factory.pt, "weights", tmp_path / "noisy.pt")
    old, new = read_state(torch_factory.pt), read_state(tmp_path / "noisy.pt")
    assert {k: (v.shape, v.dtype) for k, v in old.items()} == {k: (v.shape, v.dtype) for k, v in new.items()}
    assert not np.allclose(old["dense.weight"].numpy(), new["dense.weight"].numpy())


def test_what_cannot_be_rewritten_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="is savedmodel, whose weights cannot be replaced"):
        with_noise(tmp_path, "savedmodel", tmp_path / "x")


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float16, np.int8, np.int32, np.bool_]),
        arrays.array_shapes(max_dims=3, max_side=40),
    )
)
def test_noise_has_the_shape_the_dtype_and_the_limits(values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        made = noise(values, np.random.default_rng(0))
    assert (made.shape, made.dtype) == (values.shape, values.dtype)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        assert np.array_equal(np.isfinite(made), finite)
        if finite.any():
            assert values[finite].min() <= made[finite].min() and made[finite].max() <= values[finite].max()


def test_noise_has_the_same_statistics_and_other_values() -> None:
    values = np.random.default_rng(1).normal(3, 2, 10_000).astype(np.float32)
    made = noise(values, np.random.default_rng(0))
    assert made.mean() == pytest.approx(3, abs=0.1)
    assert made.std() == pytest.approx(2, abs=0.1)
    assert np.mean(made == values) < 0.01


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeferry_runtime", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_failed_conversion_leaves_its_report(tmp_path: Path) -> None:
    arguments = (MODELS / "digits.tflite", "-o", tmp_path / "b", "--quantize", "fp16", "--max-abs", 0)
    done = convert(*arguments, "--repro", tmp_path / "r.zip")
    assert done.returncode == 3
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        report = json.loads(archive.read("report.json"))
    assert report["error_type"] == "VerificationError"
    assert "max abs error" in report["error"]
    nowhere = convert(*arguments, "--repro", tmp_path / "no" / "r.zip")
    assert nowhere.returncode == 1
    assert "no such folder; create it, or give another --repro" in nowhere.stderr
