"""Labelled data that is at hand: MNIST's test set, split, and the clips of the keyword spotter."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Samples to train on and to judge by: float32 of [samples, height, width, 1], and class numbers of [samples]."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def channels_first(self) -> Split:
        """Return the same pictures as PyTorch takes them."""
        turned = [np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for x in (self.train_x, self.test_x)]
        return Split(turned[0], self.train_y, turned[1], self.test_y)

    def first(self, count: int) -> Split:
        """Return the split with the first samples to train on alone."""
        return Split(self.train_x[:count], self.train_y[:count], self.test_x, self.test_y)

    def shifted(self, copies: int, seed: int) -> Split:
        """Return the split with copies of what is trained on, each picture moved by up to two pixels."""
        random = np.random.default_rng(seed)
        moves = random.integers(-2, 3, (copies, len(self.train_x), 2))
        moved = [
            np.stack([np.roll(one, tuple(by), (0, 1)) for one, by in zip(self.train_x, copy, strict=True)])
            for copy in moves
        ]
        x, y = np.concatenate([self.train_x, *moved]), np.tile(self.train_y, copies + 1)
        return Split(x, y, self.test_x, self.test_y)

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``train.npz`` and ``test.npz``, the pictures under the name of the model's input."""
        train, test = folder / "train.npz", folder / "test.npz"
        np.savez(train, **{name: self.train_x, "label": self.train_y})
        np.savez(test, **{name: self.test_x, "label": self.test_y})
        return train, test


def split(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> Split:
    """Shuffle, and give the first `count` samples to training."""
    order = np.random.default_rng(seed).permutation(len(x))
    first, rest = order[:count], order[count:]
    return Split(x[first], y[first], x[rest], y[rest])


def mnist(zoo: Path, count: int, seed: int) -> Split:
    """Split the 10,000 pictures of MNIST's test set; values are in 0..1."""
    images, labels = (gzip.decompress((zoo / f"mnist/data/t10k-{part}.gz").read_bytes()) for part in PARTS)
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1).astype(np.float32) / 255
    return split(x, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64), count, seed)


PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def clips(zoo: Path, seed: int) -> Split:
    """Split the 503 labelled clips of Speech Commands, as MFCC of [49, 10, 1], in halves."""
    stored = np.load(zoo / "mlperf-tiny/kws01_500.npz")
    real = (stored["features_int8"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
    return split(real.reshape(-1, 49, 10, 1).astype(np.float32), stored["label"].astype(np.int64), 252, seed)
