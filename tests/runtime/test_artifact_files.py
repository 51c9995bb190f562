"""Artifacts that keep weights beside themselves: counted, hashed, carried in bundles, and covered by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.artifact_files import artifact_sha256, artifact_size, companions, sha256_file
from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.bundle import PROBE, Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.engines import Delegate
from edgeferry_runtime.errors import BundleError, CorruptFileError, MissingFileError
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.tensors import TensorSpec

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHTS = np.arange(4, dtype=np.float32)
Make = Callable[..., Bundle]


def write_pair(folder: Path, tiny, location: str = "model.onnx.data") -> Path:
    (folder / "model.onnx").write_bytes(tiny.onnx_external(location))
    (folder / location).write_bytes(WEIGHTS.tobytes())
    return folder / "model.onnx"


@pytest.fixture
def split_bundle(tiny, tmp_path: Path) -> Make:
    """Make a bundle of y = x + w, whose weights lie beside the graph."""
    tensors = [TensorSpec(name, (1, 4), "float32") for name in "xy"]
    manifest = Manifest("tiny", "model.onnx", "onnx", "none", (tensors[0],), (tensors[1],), {"name": "tiny"})
    x = np.ones((2, 1, 4), np.float32)

    def fill(folder: Path) -> None:
        write_pair(folder, tiny)
        Probe({"x": x}, {"y": x + WEIGHTS}).save(folder / PROBE)

    return lambda **changes: write_bundle(tmp_path / "bundle", replace(manifest, **changes), fill)


def test_an_artifact_of_one_file(artifacts) -> None:
    for kind in ("double.tflite", "double.onnx"):
        path = artifacts[kind]
        assert companions(path) == ()
        assert artifact_size(path) == path.stat().st_size
        assert artifact_sha256(path) == sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\x08\x0a\x3a\xff"])
def test_what_is_no_artifact_has_no_companions(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert companions(tmp_path / "file") == ()


def test_size_and_hash_cover_the_companions(tiny, tmp_path: Path) -> None:
    path = write_pair(tmp_path, tiny)
    assert companions(path) == (tmp_path / "model.onnx.data",)
    assert artifact_size(path) == path.stat().st_size + 16
    before = artifact_sha256(path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(16))
    assert artifact_sha256(path) != before


@pytest.mark.slow
def test_a_bundle_with_weights_beside_its_artifact(split_bundle: Make) -> None:
    bundle = split_bundle()
    assert set(bundle.manifest.files) == {"model.onnx", "model.onnx.data", "probe.npz"}
    bundle.check()
    with bundle.load() as model:
        assert model(np.ones((1, 4), np.float32)).tolist() == [[1, 2, 3, 4]]
    profile = bench(bundle.path, BenchOptions(num_runs=3, min_secs=0))
    assert profile.artifact["size_bytes"] == artifact_size(bundle.artifact)
    assert profile.artifact["sha256"] == artifact_sha256(bundle.artifact)


def test_changed_weights_are_found(split_bundle: Make) -> None:
    bundle = split_bundle()
    (bundle.path / "model.onnx.data").write_bytes(bytes(16))
    with pytest.raises(BundleError, match=r"model\.onnx\.data was changed"):
        bundle.check()


def test_missing_and_short_weights(split_bundle: Make) -> None:
    bundle = split_bundle()
    (bundle.path / "model.onnx.data").write_bytes(bytes(15))
    with pytest.raises(CorruptFileError, match=r"is shorter than model\.onnx says"):
        bundle.load()
    (bundle.path / "model.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"lacks the file 'model\.onnx\.data'"):
        Bundle.open(bundle.path)


def test_weights_that_the_manifest_has_no_hash_of(tiny, split_bundle: Make, tmp_path: Path) -> None:
    """Whoever adds a file to a bundle's folder adds nothing to the bundle."""
    bundle = split_bundle()
    write_pair(tmp_path, tiny, "other.bin")
    bundle.artifact.write_bytes((tmp_path / "model.onnx").read_bytes())
    (bundle.path / "other.bin").write_bytes(WEIGHTS.tobytes())
    for act in (bundle.check_weights, bundle.load, lambda: bench(bundle.path)):
        with pytest.raises(BundleError, match=r"keeps weights in other\.bin, which its manifest\.json has no hash of"):
            act()


@pytest.mark.slow
def test_a_child_takes_bare_files_with_weights_beside_them(tiny, tmp_path: Path) -> None:
    path = write_pair(tmp_path, tiny)
    try_in_child(path)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(MissingFileError, match=r"holds weights of model\.onnx and is missing"):
        try_in_child(path)


def test_weights_need_not_be_copied(tiny, tmp_path: Path) -> None:
    from edgeferry_runtime.engines.onnxruntime import open_engine

    engine = open_engine(write_pair(tmp_path, tiny), Delegate(), prepack=False)
    assert engine.run([np.zeros((1, 4), np.float32)])[0].tolist() == [WEIGHTS.tolist()]


@pytest.mark.slow
def test_the_commands_take_both(tiny, ferry, split_bundle: Make, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    for target in (split_bundle().path, write_pair(tmp_path, tiny)):
        status, _, err = ferry("run", target, "--input", tmp_path / "x.npy", "--json")
        assert status == 0, err
        assert ferry("bench", target, "--num-runs", 2, "--min-secs", 0)[0] == 0
