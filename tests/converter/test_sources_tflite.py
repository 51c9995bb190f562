"""TFLite files as sources: signatures that survive or are chosen, sizes pinned, weights that are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter import convert
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_runtime.errors import ArtifactError, ConversionError, UnknownNameError, UsageError
from edgeferry_runtime.tflite_file import read_tflite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``two/``, a SavedModel with the signatures double and triple, ``two.tflite`` and a dynamic ``batch.tflite``."""
    folder = tmp_path_factory.mktemp("signatures")
    with quiet():
        import tensorflow as tf

        class Two(tf.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                self.weight = tf.Variable(np.arange(12, dtype=np.float32).reshape(3, 4) / 12)

            @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
            def double(self, x: Any) -> Any:
                return {"y": x @ self.weight * 2}

            @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
            def triple(self, x: Any) -> Any:
                return {"z": x @ self.weight * 3}

        module = Two()
        tf.saved_model.save(module, str(folder / "two"), {"double": module.double, "triple": module.triple})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "two"), signature_keys=["double", "triple"])
        (folder / "two.tflite").write_bytes(converter.convert())
        one = tf.lite.TFLiteConverter.from_concrete_functions([module.double.get_concrete_function()], module)
        (folder / "batch.tflite").write_bytes(one.convert())
        module.weight.assign(np.full((3, 4), np.nan, np.float32))
        tf.saved_model.save(module, str(folder / "nan"), {"serving_default": module.double})
    return folder


def keys(path: Path) -> list[str]:
    return [signature.key for signature in read_tflite(path.read_bytes()).signatures]


X = np.float32([[1, 2, 3]])


def test_all_signatures_survive(saved: Path, tmp_path: Path) -> None:
    bundle = convert(saved / "two.tflite", tmp_path / "b")
    assert keys(bundle.artifact) == keys(saved / "two.tflite") == ["double", "triple"]
    assert "notes" not in bundle.manifest.source


def test_a_signature_is_chosen(saved: Path, tmp_path: Path) -> None:
    bundle = convert(saved / "two.tflite", tmp_path / "b", signature="triple")
    assert keys(bundle.artifact) == ["triple"]
    assert bundle.manifest.source["notes"] == ["the signature 'triple' is the model; left out: double"]
    assert [t.name for t in bundle.manifest.outputs] == ["z"]
    with bundle.load() as model:
        assert model(X)[0, 0] == pytest.approx(3 * (0 + 2 * 4 + 3 * 8) / 12)


def test_a_signature_of_a_saved_model(saved: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(saved / "two", signature=("triple",)))
    assert [t.name for t in source.outputs] == ["z"]
    assert source.notes == ("the signature 'triple' is the model; left out: double",)
    source.lower("tflite", tmp_path / "m.tflite")
    with edgeferry_runtime.load(tmp_path / "m.tflite") as model:
        np.testing.assert_allclose(model(X), source.run({"x": X})["z"])


@pytest.mark.parametrize("name", ["two", "two.tflite"])
def test_an_unknown_signature(saved: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'triple'"):
        open_source(SourceSpec(saved / name, signature=("tripel",)))


def test_signatures_are_for_formats_that_have_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is for SavedModels and \.tflite files"):
        convert(Path(__file__).parent / "models" / "digits.onnx", tmp_path / "b", to="onnx", signature="x")


def test_sizes_are_pinned(saved: Path, tmp_path: Path) -> None:
    assert edgeferry_runtime.load(saved / "batch.tflite").inputs[0].shape == (-1, 3)
    source = open_source(SourceSpec(saved / "batch.tflite", shapes={"x": (2, 3)}))
    source.lower("tflite", tmp_path / "m.tflite")
    with edgeferry_runtime.load(tmp_path / "m.tflite") as model:
        assert [t.shape for t in (*model.inputs, *model.outputs)] == [(2, 3), (2, 4)]
        feeds = {"x": np.repeat(X, 2, axis=0)}
        (name,) = (t.name for t in source.outputs)
        assert np.array_equal(model.run(feeds)[name], source.run(feeds)[name])
    with pytest.raises(UsageError, match="does not fit the input 'x'"):
        open_source(SourceSpec(saved / "batch.tflite", shapes={"x": (1, 4)}))


def test_a_dynamic_batch_is_kept_and_verified_at_two_sizes(saved: Path, tmp_path: Path) -> None:
    bundle = convert(saved / "batch.tflite", tmp_path / "b")
    assert bundle.manifest.inputs[0].shape == (-1, 3)
    assert bundle.manifest.verification["batches"] == [1, 3]


def test_weights_that_are_no_numbers(saved: Path) -> None:
    with pytest.raises(ArtifactError, match=r"its weight '.*' holds NaN \(12 of 12 values"):
        open_source(SourceSpec(saved / "nan"))


def test_flex_operators_are_refused_and_listed(tmp_path: Path) -> None:
    with quiet():
        import tensorflow as tf

        class Needs(tf.Module):  # type: ignore[misc]
            @tf.function(input_signature=[tf.TensorSpec([2, 2], tf.float32, name="x")])
            def serve(self, x: Any) -> Any:
                return {"y": tf.linalg.inv(x) + tf.linalg.det(x)}

        module = Needs()
        tf.saved_model.save(module, str(tmp_path / "needs"), {"serving_default": module.serve})
    source = open_source(SourceSpec(tmp_path / "needs"))
    with pytest.raises(ConversionError, match=r"TFLite has no operator for tf\.MatrixDeterminant, tf\.MatrixInverse"):
        source.lower("tflite", tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()
