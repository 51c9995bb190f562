"""Keras files that need Python classes, that hold state or preprocessing; checkpoints with several states."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_converter.sources.torch_weights import read_weights
from edgeferry_runtime.errors import (
    ArtifactError,
    ConversionError,
    MissingFileError,
    UnknownFormatError,
    UnknownNameError,
    UsageError,
)

if TYPE_CHECKING:
    from conftest import TorchFactory

pytestmark = pytest.mark.slow

LAYERS = """
import keras
from pathlib import Path

Path(__file__).with_name("executed").touch()


class Scale(keras.layers.Layer):
    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
"""


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``scale.keras`` and ``scale.h5``, which multiply by 3, and ``layers.py`` with their class."""
    folder = tmp_path_factory.mktemp("custom")
    (folder / "layers.py").write_text(LAYERS)
    with quiet():
        import keras

        sys.path.insert(0, str(folder))
        try:
            import layers  # type: ignore[import-not-found]
        finally:
            sys.path.remove(str(folder))
        model = keras.Sequential([keras.Input((4,)), layers.Scale(3.0, name="scale")])
        model.save(folder / "scale.keras")
        model.save(folder / "scale.h5")
        del sys.modules["layers"]
    return folder


@pytest.mark.parametrize("name", ["scale.keras", "scale.h5"])
def test_without_its_class_the_flag_is_named_and_nothing_is_executed(custom: Path, name: str) -> None:
    (custom / "executed").unlink(missing_ok=True)
    with pytest.raises(ArtifactError, match=r"Scale.*--custom-objects FILE\.py:Scale"):
        open_source(SourceSpec(custom / name))
    assert not (custom / "executed").exists()


@pytest.mark.parametrize("name", ["scale.keras", "scale.h5"])
def test_with_its_class_it_converts(custom: Path, tmp_path: Path, name: str) -> None:
    bundle = convert(custom / name, tmp_path / "b", custom_objects=f"{custom / 'layers.py'}:Scale")
    assert bundle.load()(np.ones((1, 4), np.float32)).tolist() == [[3, 3, 3, 3]]
    assert 'layers.py:Scale"' in (tmp_path / "b" / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("layers.py", UsageError, r"is not FILE\.py:NAME,NAME"),
        ("nowhere.py:Scale", MissingFileError, "no such file with custom objects"),
        ("layers.py:Scal", UnknownNameError, "did you mean 'Scale'"),
    ],
)
def test_mistakes_with_custom_objects(
    custom: Path, tmp_path: Path, text: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        convert(custom / "scale.h5", tmp_path / "b", custom_objects=custom / text)


def test_custom_objects_are_for_keras(tmp_path: Path, custom: Path) -> None:
    model = Path(__file__).parent / "models" / "digits.onnx"
    with pytest.raises(UsageError, match="is for Keras files"):
        convert(model, tmp_path / "b", to="onnx", custom_objects=custom / "layers.py:Scale")


def test_keras_2_is_named_where_it_read_the_file(tmp_path: Path) -> None:
    """Keras 3 refuses a DepthwiseConv2D with ``groups``, which Keras 2 wrote."""
    with quiet():
        import tf_keras

        model = tf_keras.Sequential([tf_keras.Input((6, 6, 2)), tf_keras.layers.DepthwiseConv2D(3)])
        model.save(tmp_path / "old.h5")
    source = open_source(SourceSpec(tmp_path / "old.h5"))
    assert source.framework.startswith("tf_keras ")
    assert "read by tf-keras, which is Keras 2, because Keras 3 refuses it" in source.notes[0]


def test_keras_weights_that_are_no_numbers(tmp_path: Path) -> None:
    with quiet():
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        model.layers[0].bias.assign([np.inf, 0])
        model.save(tmp_path / "m.keras")
    with pytest.raises(ArtifactError, match=r"its weight '.*head/bias' holds infinity \(1 of 2"):
        open_source(SourceSpec(tmp_path / "m.keras"))


def test_a_missing_operator_names_its_layer(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text(
        "import keras, tensorflow as tf\n"
        "class Inverse(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return tf.linalg.inv(x)\n"
    )
    with quiet():
        import keras

        space: dict[str, Any] = {"__name__": "layers"}
        exec((tmp_path / "layers.py").read_text(), space)
        keras.Sequential([keras.Input((3, 3)), space["Inverse"](name="turn")]).save(tmp_path / "m.keras")
    objects = (tmp_path / "layers.py", ("Inverse",))
    source = open_source(SourceSpec(tmp_path / "m.keras", custom_objects=objects))
    with pytest.raises(ConversionError, match=r"TFLite has no operator for tf\.MatrixInverse \(in .*turn.*\)"):
        source.lower("tflite", tmp_path / "m.tflite")


def _recurrent(keras: Any) -> Any:
    return [keras.Input((6, 5)), keras.layers.LSTM(8), keras.layers.Dense(3, activation="softmax")]


def _preprocessing(keras: Any) -> Any:
    normal = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])
    resize = keras.layers.Resizing(8, 8)
    rest = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    return [keras.Input((12, 10, 3)), resize, keras.layers.Rescaling(1 / 255), normal, *rest]


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("layers", [_recurrent, _preprocessing])
def test_recurrent_and_preprocessing_layers(tmp_path: Path, layers: Any, to: str) -> None:
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        keras.Sequential(layers(keras)).save(tmp_path / "m.keras")
    bundle = convert(tmp_path / "m.keras", tmp_path / "b", to=to)
    (output,) = bundle.manifest.verification["outputs"]
    assert output["snr_db"] > 80
    assert bundle.manifest.verification["batches"] == ([1, 3] if to == "onnx" else [1])


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_a_loop_stays_float_with_int8_matrices(tmp_path: Path, quantize: str) -> None:
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        keras.Sequential(_recurrent(keras)).save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 6, 5), np.float32))
    bundle = convert(tmp_path / "m.keras", tmp_path / "b", quantize=quantize, calibrate=tmp_path / "x.npy")
    (output,) = bundle.manifest.verification["outputs"]
    assert output["snr_db"] > 25
    assert bundle.manifest.verification["layers"] == {"int8": 3}


def checkpoint(torch_factory: TorchFactory, path: Path, form: Any) -> Path:
    import torch

    torch.save(form(torch.load(torch_factory.pt, weights_only=True)), path)
    return path


def test_the_weights_that_were_found_are_named(torch_factory: TorchFactory, tmp_path: Path) -> None:
    def deep(state: Any) -> Any:
        return {"epoch": 3, "runs": {"best": {f"module.{k}": v for k, v in state.items()}}}

    path = checkpoint(torch_factory, tmp_path / "w.pt", deep)
    found = read_weights(path)
    assert (found.key, found.prefix) == ("runs.best", "module.")
    bundle = convert(torch_factory.text, tmp_path / "b", weights=path, shape=torch_factory.shapes, to="onnx")
    assert bundle.manifest.source["notes"] == [
        "the weights are those below the key 'runs.best' of w.pt",
        "'module.' was taken away before the name of every weight",
    ]


def test_a_key_chooses_among_several(torch_factory: TorchFactory, tmp_path: Path) -> None:
    path = checkpoint(torch_factory, tmp_path / "w.pt", lambda state: {"model": state, "ema": state})
    with pytest.raises(
        UnknownFormatError, match=r"several state dicts: model, ema; name the one .* --weights-key model"
    ):
        read_weights(path)
    source = open_source(SourceSpec(torch_factory.file, "Net", path, torch_factory.shapes, weights_key="ema"))
    assert source.notes == ("the weights are those below the key 'ema' of w.pt",)
    with pytest.raises(UnknownNameError, match="did you mean 'ema'"):
        read_weights(path, "emma")
    with pytest.raises(UsageError, match="holds the weights themselves"):
        read_weights(torch_factory.pt, "ema")


def test_a_key_needs_weights(torch_factory: TorchFactory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add --weights FILE"):
        convert(torch_factory.text, tmp_path / "b", weights_key="ema")


def test_pytorch_weights_that_are_no_numbers(torch_factory: TorchFactory, tmp_path: Path) -> None:
    def spoiled(state: Any) -> Any:
        state["dense.bias"][3] = np.nan
        return state

    path = checkpoint(torch_factory, tmp_path / "w.pt", spoiled)
    with pytest.raises(ArtifactError, match=r"its weight 'dense\.bias' holds NaN \(1 of 10"):
        open_source(SourceSpec(torch_factory.file, "Net", path, torch_factory.shapes))
