"""ONNX files: brought up to date, external data followed but never out of the folder, sizes pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter import convert
from edgeferry_converter.sources import SourceSpec, onnx_upgrade, open_source
from edgeferry_runtime.errors import ArtifactError, CorruptFileError, UnknownNameError, UsageError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHT = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def dense(path: Path, weight: Any = WEIGHT, opset: int = 9, **external: Any) -> Path:
    """Write y = relu(x @ weight), x being [N, T, 6]."""
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.save_model(model, str(path), **external)
    return path


def lowered(source: Any, path: Path) -> Any:
    source.lower("onnx", path)
    return onnx.load(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [7, 8, 11, 13, 18])
def test_old_operator_sets_are_raised(tmp_path: Path, opset: int) -> None:
    source = open_source(SourceSpec(dense(tmp_path / "old.onnx", opset=opset)))
    model = lowered(source, tmp_path / "new.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", onnx_upgrade.OPSET)]
    assert source.notes == (f"raised from ONNX operator set {opset} to {onnx_upgrade.OPSET}",)
    assert {value.name for value in model.graph.value_info} >= {"z"}
    feeds = {"x": np.random.default_rng(1).random((2, 5, 6), dtype=np.float32)}
    with edgeferry_runtime.load(tmp_path / "new.onnx") as new:
        assert np.array_equal(new.run(feeds)["y"], source.run(feeds)["y"])


@pytest.mark.slow
def test_newer_operator_sets_stay(tmp_path: Path) -> None:
    source = open_source(SourceSpec(dense(tmp_path / "m.onnx", opset=22)))
    assert lowered(source, tmp_path / "new.onnx").opset_import[0].version == 22
    assert source.notes == ()


@pytest.mark.slow
def test_the_manifest_says_what_was_raised(tmp_path: Path) -> None:
    bundle = convert(dense(tmp_path / "m.onnx", opset=8), tmp_path / "b", to="onnx", shape={"x": (-1, 5, 6)})
    assert bundle.manifest.source["notes"] == ["raised from ONNX operator set 8 to 21"]


@pytest.mark.slow
def test_external_data_is_gathered(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    (tmp_path / "in").mkdir()
    source = open_source(SourceSpec(dense(tmp_path / "in" / "m.onnx", weight, **external)))
    assert (tmp_path / "in" / "w.bin").stat().st_size == weight.nbytes
    (tmp_path / "out").mkdir()
    assert not lowered(source, tmp_path / "out" / "m.onnx").graph.initializer[0].external_data
    feeds = {"x": np.ones((1, 1, 1024), np.float32)}
    with edgeferry_runtime.load(tmp_path / "out" / "m.onnx") as model:
        np.testing.assert_allclose(model.run(feeds)["y"], source.run(feeds)["y"], rtol=1e-6)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    path = dense(folder / "m.onnx", **external)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CorruptFileError, match=r"keeps weights outside its folder, at '\.\./w\.bin'"):
        open_source(SourceSpec(path))


@pytest.mark.slow
def test_shapes_pin_dynamic_axes(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    source = open_source(SourceSpec(path, shapes={"x": (-1, 5, 6)}))
    assert str(source.inputs[0]) == "x float32[?x5x6]"
    lowered(source, tmp_path / "new.onnx")
    with edgeferry_runtime.load(tmp_path / "new.onnx") as model:
        assert [str(t) for t in (*model.inputs, *model.outputs)] == ["x float32[?x5x6]", "y float32[?x5x4]"]
    whole = open_source(SourceSpec(path, shapes={"x": (1, 5, 6)}))
    lowered(whole, tmp_path / "whole.onnx")
    with edgeferry_runtime.load(tmp_path / "whole.onnx") as model:
        assert str(model.outputs[0]) == "y float32[1x5x4]"


@pytest.mark.slow
def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not fit the input x"):
        open_source(SourceSpec(path, shapes={"x": (1, 5, 7)}))
    with pytest.raises(UnknownNameError, match="valid are x"):
        open_source(SourceSpec(path, shapes={"image": (1, 5, 6)}))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float, word: str) -> None:
    weight = WEIGHT.copy()
    weight[2, 1] = value
    with pytest.raises(ArtifactError, match=rf"its weight 'w' holds {word} \(1 of 24 values"):
        open_source(SourceSpec(dense(tmp_path / "m.onnx", weight)))


@pytest.mark.slow
def test_masks_of_negative_infinity_are_fine(tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[2, 1] = -np.inf
    open_source(SourceSpec(dense(tmp_path / "m.onnx", weight)))


@pytest.mark.slow
def test_a_dynamic_batch_is_verified_at_two_sizes(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    bundle = convert(path, tmp_path / "b", to="onnx", shape={"x": (-1, 5, 6)})
    assert bundle.manifest.verification["batches"] == [1, 3]
    assert bundle.manifest.verification["batch_outputs"][0]["name"] == "y"
    fixed = convert(path, tmp_path / "c", to="onnx", shape={"x": (1, 5, 6)})
    assert fixed.manifest.verification["batches"] == [1]


@pytest.mark.zoo
def test_old_models_of_others(zoo: Path, tmp_path: Path) -> None:
    mnist = next((zoo / "qonnx").rglob("mnist-conv/model.onnx"))
    bundle = convert(mnist, tmp_path / "mnist", to="onnx")
    assert bundle.manifest.source["notes"] == ["raised from ONNX operator set 8 to 21"]
    face = next((zoo / "ultraface").rglob("version-RFB-320.onnx"))
    assert all(o["snr_db"] > 100 for o in convert(face, tmp_path / "f", to="onnx").manifest.verification["outputs"])


@pytest.mark.zoo
@pytest.mark.parametrize("quantize", ["none", "fp16"])
@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"])
def test_a_stateful_recurrent_model(zoo: Path, tmp_path: Path, name: str, quantize: str) -> None:
    """Speech: 512 samples, and a state that goes in and comes out."""
    path = next((zoo / "silero-vad").rglob(name))
    random = np.random.default_rng(0)
    probe = tmp_path / "probe.npz"
    np.savez(
        probe,
        input=(random.standard_normal((4, 576)) * 0.1).astype(np.float32),
        state=random.standard_normal((4, 2, 1, 128)).astype(np.float32) * 0.1,
        sr=np.full((4,), 16000, np.int64),
    )
    bundle = convert(path, tmp_path / "b", to="onnx", quantize=quantize, probe=probe)
    assert {o["name"] for o in bundle.manifest.verification["outputs"]} == {t.name for t in bundle.manifest.outputs}
