"""What the tests of compression share: small models that can be trained in no time, and what they are trained on."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from edgeferry_converter.quiet import quiet

DROPOUT = '''
import torch
from torch import nn


class Net(nn.Module):
    """Pictures of [N, 1, 8, 8] become 5 logits, with dropout and normalization on the way."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.dense = nn.Linear(144, 5)

    def forward(self, image):
        return self.dense(self.drop(torch.relu(self.norm(self.conv(image))).flatten(1)))


def make():
    torch.manual_seed(0)
    return Net(), torch.zeros(1, 1, 8, 8)
'''


class Pupil(NamedTuple):
    """A model that was trained a little, and 96 labelled samples for it."""

    model: str
    data: Path


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of [96, 8, 8, 1] whose class is the brightest of five pixels."""
    x = np.random.default_rng(0).random((96, 8, 8, 1), dtype=np.float32)
    return x, x[:, 0, :5, 0].argmax(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let untrained weights be the same whatever ran before: a framework not imported yet begins like that anyway."""
    random.seed(0)  # where Keras takes the seeds of weights from
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def keras_pupil(tmp_path_factory: pytest.TempPathFactory) -> Pupil:
    """``image`` of [?, 8, 8, 1] to ``digit`` of [?, 5], a distribution; with dropout and normalization."""
    folder = tmp_path_factory.mktemp("pupil")
    x, y = pictures()
    np.savez(folder / "data.npz", image=x, label=y)
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        image = keras.Input((8, 8, 1), name="image")
        z = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(image))
        z = keras.layers.Dropout(0.3)(keras.layers.Flatten()(z))
        model = keras.Model(image, keras.layers.Dense(5, activation="softmax", name="digit")(z))
        model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=20, verbose=0)
        model.save(folder / "m.keras")
    return Pupil(str(folder / "m.keras"), folder / "data.npz")


@pytest.fixture(scope="session")
def torch_pupil(tmp_path_factory: pytest.TempPathFactory) -> Pupil:
    """``image`` of [1, 1, 8, 8] to ``output_0`` of [1, 5], logits; with dropout and normalization, and not trained."""
    folder = tmp_path_factory.mktemp("torch-pupil")
    x, y = pictures()
    np.savez(folder / "data.npz", image=x.transpose(0, 3, 1, 2), label=y)
    (folder / "net.py").write_text(DROPOUT)
    return Pupil(f"{folder / 'net.py'}:make", folder / "data.npz")


def _beside(name: str) -> ModuleType:
    """Import a module of this folder, which holds no tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def torch_blocks() -> ModuleType:
    """PyTorch modules with all that the artifact fuses, shares or fixes."""
    return _beside("torch_blocks")


@pytest.fixture(scope="module")
def twins() -> ModuleType:
    """One network in both frameworks, with the same weights."""
    return _beside("twin_models")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: small batches gain nothing from more, and lose much beside other work.

    Other modules compare with processes of their own, which add in another order with other threads.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
