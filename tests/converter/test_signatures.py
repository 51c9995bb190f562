"""Several signatures, end to end: lowered together, sharing weights, quantized and proven one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeferry_converter import Recipe, convert, inspect, verify
from edgeferry_converter.comparison import Options
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import Source, SourceSpec, open_source
from edgeferry_devices import open_device, profile, push, run_on_device
from edgeferry_runtime import BenchOptions
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.cli import ferry
from edgeferry_runtime.errors import ArtifactError, DataError, UnknownNameError, UsageError, VerificationError
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.tflite_file import read_tflite

pytestmark = pytest.mark.slow

WIDTH, CODE = 64, 256
Convert = Callable[..., Bundle]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of encode, x to code, and rebuild, x and gain to y and energy, which share a matrix."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    with quiet():
        import tensorflow as tf

        x = tf.TensorSpec([None, WIDTH], tf.float32, name="x")
        gain = tf.TensorSpec([None, 1], tf.float32, name="gain")

        class Coder(tf.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                rng = np.random.default_rng(0)
                self.inward = tf.Variable(rng.normal(0, 1 / 8, (WIDTH, CODE)).astype(np.float32))
                self.bias = tf.Variable(rng.normal(0, 1, CODE).astype(np.float32))
                self.outward = tf.Variable(rng.normal(0, 1 / 16, (CODE, WIDTH)).astype(np.float32))

            @tf.function(input_signature=[x])
            def encode(self, x: Any) -> Any:
                return {"code": tf.nn.relu(x @ self.inward + self.bias)}

            @tf.function(input_signature=[x, gain])
            def rebuild(self, x: Any, gain: Any) -> Any:
                hidden = tf.nn.relu(x @ self.inward + self.bias)
                return {"y": hidden @ self.outward * gain, "energy": tf.reduce_sum(x * x, 1)}

        module = Coder()
        tf.saved_model.save(module, str(folder), {"rebuild": module.rebuild, "encode": module.encode})
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``.npz`` with other samples, and other numbers of them, for each signature."""
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    arrays = {
        "encode/x": rng.random((20, WIDTH), np.float32),
        "rebuild/x": 3 * rng.random((12, WIDTH), np.float32),
        "rebuild/gain": rng.random((12, 1), np.float32),
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def converted(saved: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Convert the SavedModel to a precision, once."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Bundle] = {}

    def once(precision: str, **recipe: Any) -> Bundle:
        if precision not in made:
            made[precision] = convert(saved, folder / precision, quantize=precision, **recipe)
        return made[precision]

    return once


@pytest.fixture(scope="module")
def floating(converted: Convert) -> Bundle:
    """The float bundle of both signatures."""
    return converted("none")


def keys(path: Path) -> list[str]:
    return [signature.key for signature in read_tflite(path.read_bytes()).signatures]


def test_all_are_lowered_and_proven(floating: Bundle) -> None:
    assert keys(floating.artifact) == ["encode", "rebuild"]
    manifest = floating.manifest
    assert list(manifest.signatures) == ["encode", "rebuild"]
    assert manifest.inputs == manifest.signatures["encode"].inputs
    assert [t.name for t in manifest.signatures["rebuild"].inputs] == ["gain", "x"]
    found = manifest.verification["signatures"]
    assert {key: [e["name"] for e in one["outputs"]] for key, one in found.items()} == {
        "encode": ["code"],
        "rebuild": ["energy", "y"],
    }
    assert found["encode"]["outputs"] == manifest.verification["outputs"]
    floating.check()


def test_weights_are_shared(saved: Path, floating: Bundle, tmp_path: Path) -> None:
    both = floating.artifact.stat().st_size
    sizes = [convert(saved, tmp_path / key, signature=key).artifact.stat().st_size for key in ("encode", "rebuild")]
    assert both < sizes[1] + 2000 < sum(sizes)


def test_each_runs_as_its_source_does(saved: Path, floating: Bundle) -> None:
    source = open_source(SourceSpec(saved))
    rng = np.random.default_rng(2)
    for key, entry in source.signatures.items():
        feeds = {t.name: rng.random((1, *t.shape[1:]), np.float32) for t in entry.inputs}
        expected = entry.run(feeds)
        with floating.load(signature=key) as model:
            assert [t.name for t in model.inputs] == [t.name for t in entry.inputs]
            for name, value in model.run(feeds).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    assert [t.name for t in source.inputs] == ["x"]


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.53), ("dynamic", 0.34), ("weight-only", 0.34)])
def test_quantized_weights_stay_shared(converted: Convert, floating: Bundle, precision: str, share: float) -> None:
    bundle = converted(precision)
    assert keys(bundle.artifact) == ["encode", "rebuild"]
    assert bundle.artifact.stat().st_size < share * floating.artifact.stat().st_size
    assert set(bundle.manifest.verification["signatures"]) == {"encode", "rebuild"}


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_static_ranges_are_those_of_each_signature(converted: Convert, samples: Path, precision: str) -> None:
    bundle = converted(precision, calibrate=samples, io_dtype="int8" if precision == "int8" else "float32")
    found = bundle.manifest.verification
    assert found["calibration"]["samples"] == 32
    assert {key: (one["probe"], one["samples"]) for key, one in found["signatures"].items()} == {
        "encode": ("calibration", 20),
        "rebuild": ("calibration", 12),
    }
    assert min(e["snr_db"] for one in found["signatures"].values() for e in one["outputs"]) > 25
    if precision == "int8":
        specs = {key: {t.name: t for t in one.inputs} for key, one in bundle.manifest.signatures.items()}
        scales = [specs[key]["x"].quantization.scale[0] for key in ("encode", "rebuild")]  # type: ignore[union-attr]
        assert scales[1] / scales[0] == pytest.approx(3, rel=0.01)
        assert bundle.artifact.stat().st_size < 0.4 * converted("none").artifact.stat().st_size


def test_the_best_method_is_that_of_all(saved: Path, samples: Path, tmp_path: Path) -> None:
    bundle = convert(saved, tmp_path / "b", quantize="int8", calibrate=samples, calibration="auto")
    calibration = bundle.manifest.verification["calibration"]
    worst = min(e["snr_db"] for one in bundle.manifest.verification["signatures"].values() for e in one["outputs"])
    assert calibration["tried"][calibration["method"]]["snr_db"] == pytest.approx(worst)


def test_a_signature_without_calibration_data(saved: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", encode=np.random.default_rng(0).random((12, WIDTH), np.float32))
    recipe = Recipe(quantize="int8", calibrate=tmp_path / "c.npz")
    with pytest.raises(DataError, match=r"has nothing for the signature 'rebuild'.*add rebuild/gain, rebuild/x, or"):
        convert(saved, tmp_path / "b", recipe)
    assert not (tmp_path / "b").exists()
    alone = convert(saved, tmp_path / "b", recipe, quantize="dynamic")
    origins = {key: one["probe"] for key, one in alone.manifest.verification["signatures"].items()}
    assert origins == {"encode": "calibration", "rebuild": "random"}
    chosen = convert(saved, tmp_path / "c", signature="rebuild")
    assert chosen.manifest.signatures == {}


def test_one_that_fails_fails_the_whole(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"rebuild: y: max abs error"):
        convert(saved, tmp_path / "b", quantize="weight-only-int4", tolerance=Tolerance(max_abs=0.05))
    assert not (tmp_path / "b").exists()


def test_requantizing_keeps_them_all(floating: Bundle, samples: Path, tmp_path: Path) -> None:
    bundle = convert(floating.artifact, tmp_path / "b", quantize="int8", calibrate=samples)
    assert keys(bundle.artifact) == ["encode", "rebuild"]
    assert list(bundle.manifest.signatures) == ["encode", "rebuild"]
    with bundle.load(signature="rebuild") as model:
        assert set(model.run(next(bundle.probe("rebuild").feeds()))) == {"y", "energy"}


def test_the_same_bytes_each_time(saved: Path, floating: Bundle, tmp_path: Path) -> None:
    again = convert(saved, tmp_path / "b")
    assert again.artifact.read_bytes() == floating.artifact.read_bytes()


def source_of(path: Path, *signature: str, one: bool = False) -> Source:
    return open_source(SourceSpec(path, signature=signature, one_signature=one))


@pytest.mark.parametrize("kind", ["saved", "artifact"])
def test_some_are_chosen(saved: Path, floating: Bundle, kind: str) -> None:
    path = saved if kind == "saved" else floating.artifact
    one = source_of(path, "rebuild")
    assert (dict(one.signatures), one.notes) == ({}, ("the signature 'rebuild' is the model; left out: encode",))
    both = source_of(path, "rebuild", "encode")
    assert (list(both.signatures), both.notes) == (["rebuild", "encode"], ())
    assert [t.name for t in both.inputs] == [t.name for t in both.signatures["rebuild"].inputs]
    with pytest.raises(UnknownNameError, match="did you mean 'rebuild'"):
        source_of(path, "encode", "rebuld")


def test_onnx_takes_one(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="its signatures are encode, rebuild, and --to onnx takes one; choose one"):
        convert(saved, tmp_path / "b", to="onnx")
    with pytest.raises(UsageError, match="an ONNX file has one graph, and 2 signatures are chosen"):
        convert(saved, tmp_path / "b", to="onnx", signature=("encode", "rebuild"))
    bundle = convert(saved, tmp_path / "b", to="onnx", signature="rebuild")
    assert [t.name for t in bundle.manifest.outputs] == ["energy", "y"]
    assert bundle.manifest.signatures == {}


def test_onnx_takes_what_serves_and_says_so(tmp_path: Path) -> None:
    with quiet():
        import tensorflow as tf

        module = tf.Module()
        spec = [tf.TensorSpec([1, 2], tf.float32, name="x")]
        module.twice = tf.function(lambda x: {"y": 2 * x}, input_signature=spec)
        module.thrice = tf.function(lambda x: {"y": 3 * x}, input_signature=spec)
        signatures = {"a": module.thrice, "serving_default": module.twice, "serve": module.twice}
        tf.saved_model.save(module, tmp_path / "m", signatures=signatures)
    said = "the signature 'serving_default' is the model; left out: a"
    bundle = convert(tmp_path / "m", tmp_path / "b", to="onnx")
    assert bundle.manifest.verification["warnings"] == [said]
    same = "the signature 'serve' is 'serving_default' by another name"
    assert bundle.manifest.source["notes"] == [said, same]
    both = convert(tmp_path / "m", tmp_path / "c")
    assert list(both.manifest.signatures) == ["serving_default", "a"]
    assert both.manifest.source["notes"] == [same]
    assert "warnings" not in both.manifest.verification
    assert list(source_of(tmp_path / "m", "serve", "a").signatures) == ["serve", "a"]


def test_sizes_are_for_the_signature_that_has_the_input(saved: Path, floating: Bundle) -> None:
    source = open_source(SourceSpec(saved, shapes={"gain": (2, 1), "x": (2, WIDTH)}))
    assert [t.shape for t in source.signatures["rebuild"].inputs] == [(2, 1), (2, WIDTH)]
    with pytest.raises(UnknownNameError, match="did you mean 'gain'"):
        open_source(SourceSpec(saved, shapes={"gains": (2, 1)}))
    with pytest.raises(UsageError, match="sizes are for a model of one signature"):
        open_source(SourceSpec(floating.artifact, shapes={"x": (2, WIDTH)}))


def test_verifying_one_of_them(saved: Path, floating: Bundle, converted: Convert) -> None:
    found = verify(str(floating.path), str(converted("dynamic").artifact), Options(signature="rebuild"))
    assert ([error.name for error in found.errors], found.notes) == (["energy", "y"], ())
    found = verify(str(saved), str(floating.path))
    assert [error.name for error in found.errors] == ["code"]
    assert found.notes[0] == f"{saved} ran its signature 'encode'; --signature takes rebuild"
    with pytest.raises(UnknownNameError, match="did you mean 'encode'"):
        verify(str(saved), str(floating.path), Options(signature="encod"))
    onnx = str(Path(__file__).parent / "models" / "digits.onnx")
    with pytest.raises(UsageError, match="neither model is of a kind that has signatures"):
        verify(onnx, onnx, Options(signature="x"))


def test_inspecting_tells_of_all(floating: Bundle) -> None:
    notes = inspect(floating.path).notes
    assert "inputs and outputs are those of the signature encode; others: rebuild" in notes


def test_a_device_proves_and_runs_each(floating: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with open_device("local") as device:
        names = [figure["name"] for figure in push(floating, device).figures]
    assert names == ["encode: code", "rebuild: energy", "rebuild: y"]
    probe = floating.probe("rebuild")
    answer = run_on_device(floating.path, "local", next(probe.feeds()), signature="rebuild")
    np.testing.assert_allclose(answer["y"], probe.outputs["y"][0], rtol=1e-4, atol=1e-5)
    options = BenchOptions(num_runs=2, min_secs=0, signature="rebuild")
    (measured,) = profile([floating], ["local"], options).check().profiles
    assert measured.artifact["signature"] == "rebuild"


def test_the_command(saved: Path, tmp_path: Path) -> None:
    chosen = ["--signature", "rebuild", "--signature", "encode"]
    done = CliRunner().invoke(ferry, ["convert", str(saved), "-o", str(tmp_path / "b"), *chosen])
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:4]] == [
        "rebuild: energy",
        "rebuild: y",
        "encode: code",
    ]
    assert "(signature encode)" in done.stdout
    assert Recipe.from_toml(tmp_path / "b" / "recipe.toml").signature == ("rebuild", "encode")
