"""Small trained-looking models of every source format, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import Source, SourceSpec, open_source

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """Pictures of [N, 1, 8, 8] become 10 logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dense = nn.Linear(512, 10)

    def forward(self, image):
        return self.dense(torch.relu(self.norm(self.conv(image))).flatten(1))


class Two(nn.Module):
    """A picture and a factor become logits and a mean, by name."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, image, factor):
        return {"logits": self.net(image) * factor, "average": image.mean((1, 2, 3))}


def with_examples():
    return Two(), {"factor": torch.ones(1, 1), "image": torch.rand(1, 1, 8, 8)}


def broken():
    raise ZeroDivisionError("no model today")


def no_module():
    return [1, 2]


def exits():
    raise SystemExit(0)


def lists():
    class Lists(Net):
        def forward(self, image):
            return [super(Lists, self).forward(image), [3]]
    return Lists()
'''


class TorchFactory(NamedTuple):
    """A Python file with factories, and seeded weights for its `Net`."""

    file: Path
    text: str
    pt: Path
    safetensors: Path
    shapes: dict[str, tuple[int, ...]]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep float artifacts of conversions out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def _cnn(keras: Any) -> Any:
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv2d")(image)
    x = keras.layers.BatchNormalization(name="batch_normalization")(x)
    x = keras.layers.DepthwiseConv2D(3, activation="relu", name="depthwise_conv2d")(x)
    x = keras.layers.Dense(16, activation="relu", name="dense")(keras.layers.Flatten(name="flatten")(x))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="digit")(x))


def _two(keras: Any) -> Any:
    """Inputs and outputs whose order is not that of their names, one name being no identifier."""
    image, meta = keras.Input((8, 8, 1), name="z image"), keras.Input((3,), name="meta.data")
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    x = keras.layers.Concatenate()([x, meta])
    scores = keras.layers.Dense(10, activation="softmax", name="scores")(x)
    area = keras.layers.Dense(1, name="area")(x)
    return keras.Model([image, meta], [scores, area])


@pytest.fixture(scope="session")
def keras_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small CNN as cnn.keras, cnn.h5 and savedmodel/, and two.keras with two inputs and outputs."""
    folder = tmp_path_factory.mktemp("keras")
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        model = _cnn(keras)
        model.compile("adam", "sparse_categorical_crossentropy")
        rng = np.random.default_rng(0)
        x = rng.random((64, 8, 8, 1), dtype=np.float32)
        model.fit(x, x[:, 0, :5, 0].argmax(1), epochs=2, verbose=0)
        model.save(folder / "cnn.keras")
        model.save(folder / "cnn.h5")
        model.export(folder / "savedmodel", verbose=False)
        _two(keras).save(folder / "two.keras")
    return folder


@pytest.fixture(scope="session")
def keras_cnn(keras_models: Path) -> Path:
    """A CNN: image [?, 8, 8, 1] to digit [?, 10], a distribution."""
    return keras_models / "cnn.keras"


@pytest.fixture(scope="session")
def keras_two(keras_models: Path) -> Path:
    """Inputs "z image" [?, 8, 8, 1] and "meta.data" [?, 3], outputs scores [?, 10] and area [?, 1]."""
    return keras_models / "two.keras"


@pytest.fixture(scope="session")
def keras_h5(keras_models: Path) -> Path:
    """The CNN as HDF5, with its optimizer."""
    return keras_models / "cnn.h5"


@pytest.fixture(scope="session")
def savedmodel(keras_models: Path) -> Path:
    """The CNN as a SavedModel folder."""
    return keras_models / "savedmodel"


@pytest.fixture(scope="session")
def torch_factory(tmp_path_factory: pytest.TempPathFactory) -> TorchFactory:
    """``net.py:Net`` with weights of both kinds: image [1, 1, 8, 8] to output_0 [1, 10]."""
    folder = tmp_path_factory.mktemp("torch")
    file = folder / "net.py"
    file.write_text(NET)
    with quiet():
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        space: dict[str, Any] = {}
        exec(NET, space)
        state = space["Net"]().state_dict()
        torch.save(state, folder / "net.pt")
        save_file(state, folder / "net.safetensors")
    shapes = {"image": (1, 1, 8, 8)}
    return TorchFactory(file, f"{file}:Net", folder / "net.pt", folder / "net.safetensors", shapes)


@pytest.fixture(scope="session")
def exported(torch_factory: TorchFactory) -> Path:
    """A ``.pt2`` of two inputs, image and factor, with a dynamic batch; outputs logits and average."""
    path = torch_factory.file.with_name("two.pt2")
    with quiet():
        import torch

        space: dict[str, Any] = {}
        exec(NET, space)
        torch.manual_seed(0)
        batch = torch.export.Dim("batch")
        inputs = (torch.rand(2, 1, 8, 8), torch.rand(2, 1))
        program = torch.export.export(space["Two"]().eval(), inputs, dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="session")
def keras_source(keras_cnn: Path) -> Source:
    """The CNN, opened."""
    return open_source(SourceSpec(keras_cnn))


@pytest.fixture(scope="session")
def torch_source(torch_factory: TorchFactory) -> Source:
    """The PyTorch network with its weights, opened."""
    spec = SourceSpec.parse(torch_factory.text, torch_factory.pt, torch_factory.shapes)
    return open_source(spec)


class Lowered(NamedTuple):
    """The float artifacts of one source."""

    tflite: Path
    onnx: Path


def _lower(source: Source, folder: Path) -> Lowered:
    lowered = Lowered(folder / "model.tflite", folder / "model.onnx")
    source.lower("tflite", lowered.tflite)
    source.lower("onnx", lowered.onnx)
    return lowered


@pytest.fixture(scope="session")
def keras_lowered(keras_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """The float artifacts of the CNN."""
    return _lower(keras_source, tmp_path_factory.mktemp("keras-lowered"))


@pytest.fixture(scope="session")
def torch_lowered(torch_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """The float artifacts of the PyTorch network."""
    return _lower(torch_source, tmp_path_factory.mktemp("torch-lowered"))
