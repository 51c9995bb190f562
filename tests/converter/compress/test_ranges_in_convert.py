"""`ferry convert --ranges`: trained ranges end in the artifact, of both frameworks and in both formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import Recipe, convert, plan
from edgeferry_converter.commands.plan_text import steps
from edgeferry_converter.compress.grid import Ranges, moments
from edgeferry_converter.compress.integers import activations, weights
from edgeferry_converter.compress.network import Network
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.ranges_file import save
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DataError, MissingFileError, UsageError
from edgeferry_runtime.numerics import Tolerance

MODELS = Path(__file__).parents[1] / "models"
FORMATS = pytest.mark.parametrize("to", ["tflite", "onnx"])
LOOSE = Tolerance(min_cosine=-1.0, min_top1=0.0, min_snr_db=-1000.0)
"""The ranges here are no good ones."""


def trained(network: Network, samples: Mapping[str, np.ndarray], layers: tuple[str, ...]) -> Ranges:
    """Ranges that no calibration would find: narrower than what is seen, each in its own way."""
    found = {name: moments(values) for name, values in network.features(samples, layers).items()}
    ranges = {n: (m.low * (0.9 - 0.02 * i), m.high * (0.8 - 0.03 * i)) for i, (n, m) in enumerate(found.items())}
    return Ranges(samples, ranges, found)


def scales(bundle: Bundle) -> list[float]:
    """The scale of every activation of an artifact."""
    return [stored.quantization.scale[0] for stored in activations(bundle.artifact).values()]


def step(limits: tuple[float, float]) -> float:
    return (max(limits[1], 0.0) - min(limits[0], 0.0)) / 255


def images(*shape: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(1).random((20, *shape), dtype=np.float32)}


@pytest.mark.slow
@FORMATS
def test_a_keras_model_computes_with_trained_ranges(keras_cnn: Path, tmp_path: Path, to: str) -> None:
    network = open_network(SourceSpec(keras_cnn))
    layers = tuple(name for name in network.layers() if name not in ("digit", "flatten"))
    ranges = trained(network, images(8, 8, 1), layers)
    save(ranges, tmp_path / "ranges.npz")
    bundle = convert(keras_cnn, tmp_path / "b", to=to, quantize="int8", ranges=tmp_path / "ranges.npz", tolerance=LOOSE)
    found = scales(bundle)
    for layer, limits in ranges.ranges.items():
        assert any(np.isclose(step(limits), scale, rtol=1e-5) for scale in found), layer
    told = bundle.manifest.verification["trained"]
    assert (told["layers"], told["found"]) == (len(layers), len(layers))
    assert told["activations"] >= len(layers)
    assert bundle.manifest.verification["calibration"]["samples"] == 20
    assert 'ranges = "../ranges.npz"' in (bundle.path / "recipe.toml").read_text()


@pytest.mark.slow
def test_a_torch_module_computes_with_trained_ranges(torch_factory: Any, tmp_path: Path) -> None:
    network = open_network(SourceSpec.parse(torch_factory.text, torch_factory.pt, torch_factory.shapes))
    ranges = trained(network, images(1, 8, 8), ("norm", "dense"))
    save(ranges, tmp_path / "ranges.npz")
    recipe = Recipe("tflite", "int8", ranges=tmp_path / "ranges.npz", weights=torch_factory.pt, tolerance=LOOSE)
    bundle = convert(torch_factory.text, tmp_path / "b", recipe)
    verification = bundle.manifest.verification
    found = scales(bundle)
    assert any(np.isclose(step(ranges.ranges["dense"]), scale, rtol=1e-5) for scale in found)
    told = "1 of 2 trained ranges found no tensor: norm"
    assert told in verification["warnings"], "TFLite has no tensor between a layer and the activation behind it"
    assert verification["trained"]["found"] == 1


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Ranges for the digits model whose only layer is its input, of half its true range."""
    with np.load(MODELS / "digits.npz") as stored:
        samples = {"image": stored["image"][:32]}
    ranges = Ranges(samples, {"input": (0.0, 0.5), "gone": (0.0, 1.0)}, {"input": moments(samples["image"])})
    save(ranges, tmp_path / "ranges.npz")
    return tmp_path / "ranges.npz"


@pytest.mark.slow
@FORMATS
def test_what_found_no_tensor_is_a_warning(tmp_path: Path, digits: Path, to: str) -> None:
    told: list[str] = []
    bundle = convert(
        MODELS / f"digits.{to}",
        tmp_path / "b",
        Recipe(to, "int8", ranges=digits, tolerance=LOOSE),
        progress=lambda s: told.extend(s.warnings),
    )
    assert "1 of 2 trained ranges found no tensor: gone" in told
    assert "1 of 2 trained ranges found no tensor: gone" in bundle.manifest.verification["warnings"]
    assert any(np.isclose(0.5 / 255, scale, rtol=1e-5) for scale in scales(bundle))
    assert not [words for words in told if "not what the artifact stores" in words]


@pytest.mark.slow
def test_what_the_artifact_stores_otherwise_is_a_warning(keras_cnn: Path, tmp_path: Path) -> None:
    """TFLite gives every softmax 256 steps from 0 to 1."""
    ranges = trained(open_network(SourceSpec(keras_cnn)), images(8, 8, 1), ("conv2d", "digit"))
    save(ranges, tmp_path / "ranges.npz")
    bundle = convert(keras_cnn, tmp_path / "b", quantize="int8", ranges=tmp_path / "ranges.npz", tolerance=LOOSE)
    told = bundle.manifest.verification["warnings"][-1]
    step_of = f"{step(ranges.ranges['digit']):.4g}"
    assert told == (
        f"1 of 2 trained ranges are not what the artifact stores: digit (steps of 0.003906, trained {step_of})"
    )


@pytest.mark.slow
def test_calibration_data_calibrate_what_is_not_matched(tmp_path: Path, digits: Path) -> None:
    source = MODELS / "digits.tflite"
    recipe = Recipe("tflite", "int8", calibrate=MODELS / "digits.npz", tolerance=LOOSE)
    alone = convert(source, tmp_path / "a", recipe)
    both = convert(source, tmp_path / "b", recipe, ranges=digits)
    assert both.manifest.verification["calibration"] == alone.manifest.verification["calibration"]
    before, after = activations(alone.artifact), activations(both.artifact)
    differ = {name for name in before if before[name] != after[name]}
    assert {after[name].quantization.scale[0] for name in differ} == {np.float32(0.5 / 255)}


@pytest.mark.slow
def test_integers_are_those_that_the_artifact_computes_with(tmp_path: Path) -> None:
    recipe = Recipe("tflite", "int8", calibrate=MODELS / "digits.npz")
    wide = weights(convert(MODELS / "digits.tflite", tmp_path / "a", recipe).artifact)
    narrow = weights(convert(MODELS / "digits.tflite", tmp_path / "b", quantize="weight-only-int4").artifact)
    assert wide.keys() == narrow.keys()
    assert all(abs(stored.values.astype(int)).max() == 127 for stored in wide.values())
    in_int4 = [name for name, stored in narrow.items() if abs(stored.values.astype(int)).max() == 7]
    assert in_int4
    for name in in_int4:
        axis = wide[name].axis
        shape = [-1 if i == axis else 1 for i in range(wide[name].values.ndim)]
        real = [s[name].values * s[name].scale.reshape(shape) for s in (wide, narrow)]
        assert abs(real[0] - real[1]).max() <= narrow[name].scale.max() / 2 + wide[name].scale.max()


def test_ranges_are_refused_where_there_is_nothing_to_take_them(tmp_path: Path, digits: Path) -> None:
    source = MODELS / "digits.tflite"
    with pytest.raises(UsageError, match=r"--ranges .* and --quantize dynamic has none; leave it out, or use"):
        plan(source, tmp_path / "b", Recipe(quantize="dynamic", ranges=digits))
    with pytest.raises(MissingFileError, match="no such ranges"):
        plan(source, tmp_path / "b", Recipe(quantize="int8", ranges=tmp_path / "nowhere.npz"))
    with pytest.raises(DataError, match=r"holds no trained ranges; give the ranges\.npz that ferry compress wrote"):
        plan(source, tmp_path / "b", Recipe(quantize="int8", ranges=MODELS / "digits.npz"))
    for name, ranges in {"ranges": Ranges({"image": np.ones((2, 8))}), "samples": Ranges({}, {"a": (0, 1)})}.items():
        save(ranges, tmp_path / "empty.npz")
        with pytest.raises(DataError, match=f"holds no {name}; train with quantization"):
            plan(source, tmp_path / "b", Recipe(quantize="int8", ranges=tmp_path / "empty.npz"))


def test_samples_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    save(Ranges({"picture": np.ones((2, 8, 8, 1))}, {"a": (0.0, 1.0)}), tmp_path / "ranges.npz")
    with pytest.raises(DataError, match="has data for 'picture', which is no input"):
        convert(MODELS / "digits.tflite", tmp_path / "b", quantize="int8", ranges=tmp_path / "ranges.npz")


def test_a_plan_tells_of_trained_ranges(tmp_path: Path, digits: Path) -> None:
    told = steps(plan(MODELS / "digits.tflite", tmp_path / "b", Recipe(quantize="int8", ranges=digits)))
    assert f"trained ranges of {digits}, others calibrated by min-max on {digits}" in told[3]
