"""The image model that every server serves: a ResNet-20 for 32x32 pictures, made anew from fixed numbers.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2, with projections as shortcuts. Its
weights are random, as nobody's answer is meant to be right: what counts is that each server gives the same one.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeferry_converter import convert
from edgeferry_runtime import load

PICTURES = 16
"""So many different pictures are sent in turn, so that an answer to another one's request is noticed."""


@dataclass(frozen=True)
class Subject:
    """What is served, what is asked and what has to come.

    Attributes:
        folder: Holds ``resnet20.keras`` and the bundle ``resnet20``.
        pictures: float32 [16, 32, 32, 3] in 0..255, whole numbers.
        scores: float32 [16, 10], the artifact's probabilities.
        source_scores: float32 [16, 10], those of the Keras model.
    """

    folder: Path
    pictures: np.ndarray
    scores: np.ndarray
    source_scores: np.ndarray

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "resnet20"

    @property
    def artifact(self) -> Path:
        """The int8 model, with float32 inputs and outputs."""
        return self.bundle / "model.tflite"

    @property
    def source(self) -> Path:
        """The Keras model."""
        return self.folder / "resnet20.keras"

    def tensors(self) -> list[bytes]:
        """Return each picture as the bytes of a float32 tensor [1, 32, 32, 3]."""
        return [picture.tobytes() for picture in self.pictures]

    def files(self) -> list[bytes]:
        """Return each picture as a PNG file."""
        return [_png(picture) for picture in self.pictures]


def prepare(folder: Path) -> Subject:
    """Return the model, made at most once."""
    known = folder / "pictures.npz"
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("make the model", file=sys.stderr, flush=True)
        pictures = _pictures(PICTURES + 64)
        source_scores = _make(folder, pictures)
        np.savez(known, pictures=pictures[:PICTURES], source_scores=source_scores)
    with np.load(known) as data:
        pictures, source_scores = data["pictures"], data["source_scores"]
    with load(folder / "resnet20", delegate="cpu:1") as model:
        scores = np.concatenate([model(picture[None]) for picture in pictures])
    assert len({row.tobytes() for row in scores}) == PICTURES, "answers that are alike would hide a mix-up"
    return Subject(folder, pictures, scores, source_scores)


def _pictures(count: int) -> np.ndarray:
    """Draw coloured tiles, which a PNG file holds in about as many bytes as a photograph of this size."""
    draw = np.random.default_rng(0)
    tiles = draw.integers(0, 256, (count, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(tiles + draw.integers(-8, 9, tiles.shape), 0, 255).astype(np.float32)


def _make(folder: Path, pictures: np.ndarray) -> np.ndarray:
    import keras

    keras.utils.set_random_seed(20)
    network = _network()
    path = folder / "resnet20.keras"
    network.save(path)
    np.save(folder / "calibration.npy", pictures[PICTURES:])
    convert(path, folder / "resnet20", quantize="int8", calibrate=folder / "calibration.npy")
    return np.asarray(network.predict(pictures[:PICTURES], verbose=0))


def _network():
    import keras
    from keras import layers

    image = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.ReLU()(_convolution(x, 16, 3))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        for step in (stride, 1, 1):
            x = _block(x, filters, step)
    spread = keras.initializers.RandomNormal(stddev=4.0)
    x = layers.Dense(10, "softmax", kernel_initializer=spread, name="scores")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def _block(x, filters: int, stride: int):
    from keras import layers

    inner = layers.ReLU()(_convolution(x, filters, 3, stride))
    inner = _convolution(inner, filters, 3)
    shortcut = x if x.shape[-1] == filters else _convolution(x, filters, 1, stride)
    return layers.ReLU()(layers.Add()([shortcut, inner]))


def _convolution(x, filters: int, size: int, stride: int = 1):
    from keras import layers

    return layers.BatchNormalization()(layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x))


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(held, "PNG")
    return held.getvalue()
