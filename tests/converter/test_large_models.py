"""Models that one ONNX file cannot hold: the whole way with small ones and a small limit, and once with a real one."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter import convert, inspect, onnx_file, verify
from edgeferry_converter.conversion import Step
from edgeferry_converter.explain.onnx_network import OnnxNetwork
from edgeferry_converter.repro.noise import with_noise
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_runtime.artifact_files import artifact_sha256, artifact_size, companions
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import (
    ArtifactError,
    BundleError,
    ConversionError,
    CorruptFileError,
    MissingFileError,
    UnknownFormatError,
)
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.numerics import Tolerance

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WIDTH, LAYERS = 64, 4


def chain(folder: Path, width: int = WIDTH, layers: int = LAYERS, opset: int = 17) -> Path:
    """Write `layers` matrix products and rectifiers of `width`, x being [N, width]; the weights lie in ``w.bin``."""
    from onnx import TensorProto, helper

    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    tensors, nodes = [], []
    with (folder / "w.bin").open("wb") as data:
        for i in range(layers):
            values = generator.standard_normal((width, width), dtype=np.float32) * np.float32((2 / width) ** 0.5)
            tensor = TensorProto(name=f"w{i}", data_type=1, dims=values.shape, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", "w.bin"), ("offset", data.tell()), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            data.write(values.data)
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"r{i}" if i else "x", f"w{i}"], [f"m{i}"], f"product_{i}"))
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i + 1}" if i + 1 < layers else "y"]))
    borders = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", borders[:1], borders[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(folder / "m.onnx"))
    return folder / "m.onnx"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let one ONNX file hold no more than so many bytes of weights."""
    return lambda size: monkeypatch.setattr(onnx_file, "LARGEST", size)


def weights(path: Path) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


def change(path: Path, key: str, value: str) -> None:
    """Change where the first weight is said to lie."""
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())


@pytest.mark.slow
def test_float_weights_stay_beside_the_artifact(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    path = chain(tmp_path / "in")
    steps: list[Step] = []
    bundle = convert(path, tmp_path / "b", to="onnx", progress=steps.append)
    assert companions(bundle.artifact) == (bundle.path / "model.onnx.data",)
    assert {"model.onnx", "model.onnx.data"} <= set(bundle.manifest.files)
    bundle.check()
    for name, values in weights(bundle.artifact).items():
        np.testing.assert_array_equal(values, weights(path)[name])
    graph = onnx.load(str(bundle.artifact), load_external_data=False)
    assert graph.opset_import[0].version == 21
    assert "m3" in {value.name for value in graph.graph.value_info}
    assert bundle.manifest.source["sha256"] == artifact_sha256(path)
    assert bundle.manifest.source["notes"] == ["raised from ONNX operator set 17 to 21"]
    assert bundle.manifest.verification["float_bytes"] == artifact_size(bundle.artifact) > 65_536
    assert bundle.manifest.verification["batches"] == [1, 3]
    assert all(o["snr_db"] > 120 for o in bundle.manifest.verification["outputs"])
    assert steps[-1].name == "write the bundle"
    with bundle.load() as model, edgeferry_runtime.load(path) as source:
        x = np.random.default_rng(1).random((2, WIDTH), dtype=np.float32)
        np.testing.assert_allclose(model(x), source(x), rtol=1e-5)


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    path = chain(tmp_path / "in")
    made = [convert(path, tmp_path / name, to="onnx", name="m") for name in "ab"]
    assert made[0].manifest.files == made[1].manifest.files
    assert made[0].id == made[1].id


@pytest.mark.slow
def test_labels_travel_in_the_graph(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    (tmp_path / "labels.txt").write_text("\n".join(f"class {i}" for i in range(WIDTH)))
    bundle = convert(chain(tmp_path / "in"), tmp_path / "b", to="onnx", labels=tmp_path / "labels.txt")
    graph = onnx.load(str(bundle.artifact), load_external_data=False)
    assert "labels" in {entry.key for entry in graph.metadata_props}
    assert bundle.artifact.stat().st_size < 10_000


SMALLER = {
    "fp16": ("float16", 37_000),
    "weight-only": ("int8", 21_000),
    "weight-only-int4": ("int4", 13_000),
    "dynamic": ("int8", 22_000),
    "int8": ("int8", 22_000),
    "int16x8": ("int8", 22_000),
    "dynamic-int4": ("int4", 13_000),
}
"""What a precision stores weights as, and the bytes that the artifact then takes at most."""


@pytest.mark.slow
@pytest.mark.parametrize("precision", SMALLER)
def test_smaller_precisions_are_one_file_again(precision: str, tmp_path: Path, limit: Callable[[int], None]) -> None:
    """The float weights are beyond the limit, the narrow ones are not."""
    limit(40_000)
    stored, largest = SMALLER[precision]
    bundle = quantized(tmp_path, precision)
    assert companions(bundle.artifact) == ()
    assert bundle.artifact.stat().st_size < largest
    assert bundle.manifest.verification["layers"] == {stored: LAYERS}
    assert bundle.manifest.verification["float_bytes"] > 65_536


@pytest.mark.slow
@pytest.mark.parametrize("precision", SMALLER)
def test_smaller_precisions_beyond_the_limit(precision: str, tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(6_000)
    bundle = quantized(tmp_path, precision)
    assert companions(bundle.artifact) == (bundle.path / "model.onnx.data",)
    assert bundle.artifact.stat().st_size < 10_000
    assert bundle.manifest.verification["layers"] == {SMALLER[precision][0]: LAYERS}
    bundle.check()


@pytest.mark.slow
def test_they_are_the_same_however_they_are_kept(tmp_path: Path, limit: Callable[[int], None]) -> None:
    whole = weights(quantized(tmp_path / "whole", "weight-only").artifact)
    limit(6_000)
    split = weights(quantized(tmp_path / "split", "weight-only").artifact)
    assert whole.keys() == split.keys()
    assert all(np.array_equal(values, split[name]) for name, values in whole.items())


def quantized(folder: Path, precision: str) -> Bundle:
    folder.mkdir(exist_ok=True)
    data = folder / "x.npy"
    np.save(data, np.random.default_rng(1).random((20, WIDTH), dtype=np.float32))
    extra = {"calibrate" if precision in ("int8", "int16x8") else "probe": data}
    tolerance = Tolerance(min_snr_db=5)
    return convert(chain(folder / "in"), folder / "b", to="onnx", quantize=precision, tolerance=tolerance, **extra)


@pytest.mark.slow
def test_what_works_on_both_and_what_is_refused(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    path = chain(tmp_path / "in")
    for target in (path, convert(path, tmp_path / "b", to="onnx").artifact):
        assert inspect(target).size == artifact_size(target) > 65_536
        with pytest.raises(ArtifactError, match="only where one ONNX file can hold it"):
            OnnxNetwork(target)
        with pytest.raises(UnknownFormatError, match="holds more than one ONNX file can"):
            with_noise(target, "onnx", tmp_path / "noise.onnx")
    report = verify(str(path), str(tmp_path / "b"))
    assert report.errors[0].snr_db > 120


@pytest.mark.slow
def test_nothing_is_left_of_a_source_that_changed(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    source = open_source(SourceSpec(chain(tmp_path / "in")))
    (tmp_path / "in" / "w.bin").write_bytes(bytes(20_000))
    with pytest.raises(ConversionError, match=r"w\.bin ends"):
        source.lower("onnx", tmp_path / "out.onnx")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "link.bin"])
def test_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    path = chain(tmp_path / "in")
    shutil.copyfile(path.parent / "w.bin", tmp_path / "w.bin")
    (path.parent / "link.bin").symlink_to(tmp_path / "w.bin")
    change(path, "location", location)
    with pytest.raises(CorruptFileError, match="keeps weights outside its folder"):
        convert(path, tmp_path / "b", to="onnx")
    assert not (tmp_path / "b").exists()


def test_weights_that_are_missing(tmp_path: Path) -> None:
    path = chain(tmp_path / "in")
    (path.parent / "w.bin").unlink()
    with pytest.raises(MissingFileError, match=r"w\.bin: holds weights of m\.onnx and is missing"):
        convert(path, tmp_path / "b", to="onnx")


@pytest.mark.parametrize("said", [True, False])
def test_weights_that_are_cut_off(tmp_path: Path, said: bool, limit: Callable[[int], None]) -> None:
    """Where no length is said, a weight is as long as its shape says."""
    limit(40_000)
    path = chain(tmp_path / "in")
    if not said:
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            del tensor.external_data[-1]
        path.write_bytes(model.SerializeToString())
    with (path.parent / "w.bin").open("r+b") as stream:
        stream.truncate(60_000)
    with pytest.raises(CorruptFileError, match="is shorter than" if said else "cannot be read"):
        convert(path, tmp_path / "b", to="onnx")


def test_an_offset_beyond_the_file(tmp_path: Path) -> None:
    path = chain(tmp_path / "in")
    change(path, "offset", "60000")
    with pytest.raises(CorruptFileError, match=r"w\.bin: is shorter than m\.onnx says"):
        convert(path, tmp_path / "b", to="onnx")
    assert check_artifact(chain(tmp_path / "sound")) == "onnx"


@pytest.mark.slow
def test_a_bundle_whose_weights_were_exchanged(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(40_000)
    bundle = convert(chain(tmp_path / "in"), tmp_path / "b", to="onnx")
    data = bundle.path / "model.onnx.data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(BundleError, match=r"model\.onnx\.data was changed"):
        Bundle.open(bundle.path).check()


@pytest.mark.slow
@pytest.mark.skipif("EDGEFERRY_LARGE" not in os.environ, reason="EDGEFERRY_LARGE is not set: it takes 8 GB of disk")
def test_a_model_of_more_than_2_gb(tmp_path: Path) -> None:
    path = chain(tmp_path / "in", 8192, 9)
    assert artifact_size(path) > 2**31
    bundle = convert(path, tmp_path / "b", to="onnx", samples=2)
    assert artifact_size(bundle.artifact) > 2**31
    bundle.check()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shutil.rmtree(tmp_path)
    assert peak < 6
