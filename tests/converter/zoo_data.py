"""Inputs that look natural, of the zoo's photographs, clips and digits; the same on every run."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from edgeferry_runtime.tensors import Array

PHOTOGRAPHS = ("bird", "bird_segmentation", "cat", "grace_hopper", "squat")
IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def crops(zoo: Path, count: int, size: tuple[int, int], seed: int = 0) -> Array:
    """Cut squares out of photographs at scales from a quarter to the whole, every second one mirrored.

    Returns:
        Float32 of [count, height, width, 3] in 0..255.
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    photographs = [Image.open(zoo / "coral" / f"{name}.bmp").convert("RGB") for name in PHOTOGRAPHS]
    made = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        side = int(random.integers(min(photograph.size) // 4, min(photograph.size) + 1))
        x, y = (int(random.integers(0, extent - side + 1)) for extent in photograph.size)
        crop = np.asarray(photograph.crop((x, y, x + side, y + side)).resize(size[::-1]), np.float32)
        made.append(crop[:, ::-1] if random.integers(2) else crop)
    return np.stack(made)


def cifar(zoo: Path, count: int, seed: int = 0) -> Array:
    """Return crops as the CIFAR networks take them: float32 of [count, 3, 32, 32]."""
    normal = (crops(zoo, count, (32, 32), seed) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)


def clips(zoo: Path) -> tuple[Array, Array]:
    """Return 503 spoken words, float32 of [503, 49, 10, 1], and their labels."""
    data = np.load(zoo / "mlperf-tiny/kws01_500.npz")
    real = (data["features_int8"].astype(np.float32) - data["zero_point"]) * data["scale"]
    return real.reshape(-1, 49, 10, 1).astype(np.float32), data["label"]


def digits(zoo: Path, count: int) -> Array:
    """Return written digits: float32 of [count, 28, 28] in 0..255."""
    raw = gzip.decompress((zoo / "mnist/data/t10k-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:count].astype(np.float32)
