"""What a network weighs, and how fast its artifact is."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter import Recipe, inspect
from edgeferry_converter.compress.grid import Grid, Ranges, moments
from edgeferry_converter.compress.integers import activations
from edgeferry_converter.compress.measuring import deflated, deflated_bundle, sparsity, stand
from edgeferry_converter.compress.network import Network
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.ranges_file import load
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DataError, UsageError, VerificationError
from edgeferry_runtime.numerics import Tolerance

pytestmark = pytest.mark.slow


@pytest.fixture
def network(keras_cnn: Path) -> Network:
    return open_network(SourceSpec(keras_cnn))


def trained(network: Network) -> Ranges:
    samples = {"image": np.random.default_rng(0).random((20, 8, 8, 1), dtype=np.float32)}
    found = {name: moments(v) for name, v in network.features(samples, ("conv2d", "dense")).items()}
    return Ranges(samples, {name: (m.low, m.high * 0.9) for name, m in found.items()}, found)


def test_without_a_recipe_there_is_no_artifact(network: Network, keras_cnn: Path, tmp_path: Path) -> None:
    standing, bundle = stand(network, 97.5, None, None, tmp_path)
    assert bundle is None
    assert not list(tmp_path.iterdir())
    assert (standing.score, standing.parameters, standing.sparsity) == (97.5, network.parameters(), 0.0)
    assert standing.macs == inspect(keras_cnn).macs
    assert standing.artifact_bytes is standing.compressed_bytes is standing.median_ms is None


def test_a_step_before_quantization_is_a_float_artifact(network: Network, tmp_path: Path) -> None:
    recipe = Recipe(quantize="int8", io_dtype="int8", tolerance=Tolerance(max_abs=1e9), weights="gone.pt")  # type: ignore[arg-type]
    standing, path = stand(network, 1.0, recipe, None, tmp_path)
    assert path == tmp_path / "bundle"
    bundle = Bundle.open(path)
    assert (standing.precision, bundle.manifest.precision) == ("none", "none")
    assert bundle.manifest.tolerance.max_abs is None
    assert standing.artifact_bytes == bundle.artifact.stat().st_size
    assert standing.compressed_bytes == len(zlib.compress(bundle.artifact.read_bytes(), 9))
    assert standing.macs == inspect(bundle.artifact).macs
    assert 0 < (standing.median_ms or 0) < 1000


def test_pruning_shows_in_sparsity_and_in_the_compressed_size(network: Network, tmp_path: Path) -> None:
    before, _ = stand(network, 1.0, Recipe(), None, tmp_path)
    kernels = [network.read(weight.name) for weight in network.weights()]
    for weight, kernel in zip(network.weights(), kernels, strict=True):
        network.write(weight.name, np.where(abs(kernel) < np.median(abs(kernel)), 0, kernel))
    after, _ = stand(network, 1.0, Recipe(), None, tmp_path)
    assert 0.45 < after.sparsity < 0.55
    assert after.artifact_bytes == before.artifact_bytes
    assert before.compressed_bytes and after.compressed_bytes
    assert after.compressed_bytes < 0.75 * before.compressed_bytes


def test_trained_ranges_end_in_the_artifact_and_lie_beside_the_bundle(network: Network, tmp_path: Path) -> None:
    ranges = trained(network)
    standing, path = stand(network, 1.0, Recipe(quantize="int8"), ranges, tmp_path)
    assert standing.precision == "int8"
    assert load(tmp_path / "ranges.npz").ranges == ranges.ranges
    assert path
    assert Recipe.from_toml(path / "recipe.toml").ranges.resolve() == tmp_path / "ranges.npz"  # type: ignore[union-attr]
    found = [stored.quantization.scale[0] for stored in activations(Bundle.open(path).artifact).values()]
    for low, high in ranges.ranges.values():
        assert any(np.isclose((max(high, 0) - min(low, 0)) / 255, scale, rtol=1e-5) for scale in found)


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_what_a_torch_module_learned_for_integers_is_found_whole(torch_factory: Any, tmp_path: Path, to: str) -> None:
    spec = SourceSpec.parse(torch_factory.text, torch_factory.pt, torch_factory.shapes)
    simulated = open_network(spec).simulated(Grid())
    simulated.calibrate({"image": np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)})
    network, ranges = simulated.settled()
    recipe = Recipe(to, "int8", weights=torch_factory.pt)
    standing, path = stand(network, 1.0, recipe, ranges, tmp_path)
    assert path
    assert standing.precision == "int8"
    told = Bundle.open(path).manifest.verification
    assert told["trained"]["found"] == told["trained"]["layers"] == len(ranges.ranges) > 2
    assert not [words for words in told.get("warnings", ()) if "trained ranges" in words]


def test_weights_alone_need_no_ranges(network: Network, tmp_path: Path) -> None:
    standing, _ = stand(network, 1.0, Recipe(quantize="weight-only-int4"), Ranges(), tmp_path)
    assert standing.precision == "weight-only-int4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_what_is_missing_or_wrong_surfaces(network: Network, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the range of every activation"):
        stand(network, 1.0, Recipe(quantize="int8"), Ranges(), tmp_path)
    with pytest.raises(DataError, match="trained ranges: hold no samples"):
        stand(network, 1.0, Recipe(quantize="int8"), Ranges(ranges={"a": (0.0, 1.0)}), tmp_path)
    strict = Recipe(quantize="dynamic", tolerance=Tolerance(max_abs=1e-12))
    with pytest.raises(VerificationError):
        stand(network, 1.0, strict, Ranges(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_sparsity_counts_kernels_alone(network: Network) -> None:
    assert sparsity(network) == 0.0
    for weight in network.weights():
        network.write(weight.name, np.zeros(weight.shape, np.float32))
    assert sparsity(network) == 1.0


@given(st.lists(st.binary(max_size=2000), max_size=4))
def test_deflated_is_what_a_zip_stores(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    """Against zipfile, whose raw DEFLATE lacks the 6 bytes of zlib's header and checksum."""
    folder = tmp_path_factory.mktemp("files")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for i, content in enumerate(contents):
            (folder / f"{i}.bin").write_bytes(content)
            archive.writestr(f"{i}.bin", content)
    stored = sum(entry.compress_size + 6 for entry in zipfile.ZipFile(packed).infolist())
    assert deflated(sorted(folder.iterdir())) == deflated_bundle(folder) == stored


def test_a_bundle_is_weighed_without_its_probe(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"model")
    (tmp_path / "probe.npz").write_bytes(bytes(1000))
    (tmp_path / "probe-1.npz").write_bytes(bytes(1000))
    assert deflated_bundle(tmp_path) == deflated([tmp_path / "model.tflite"])
    assert deflated_bundle(tmp_path, probe=True) > deflated_bundle(tmp_path)
