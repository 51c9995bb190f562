"""Inputs from a description alone."""

from __future__ import annotations

import numpy as np

from edgeferry_runtime.feeds import random_feeds, zero_feeds
from edgeferry_runtime.tensors import Quantization, TensorSpec

SPECS = (
    TensorSpec("image", (-1, 4, 4), "float32"),
    TensorSpec("half", (9,), "float16"),
    TensorSpec("pixels", (900,), "uint8"),
    TensorSpec("stored", (900,), "int8", Quantization((0.5,), (10,))),
    TensorSpec("token", (50,), "int64"),
    TensorSpec("flag", (50,), "bool"),
)


def test_zeros_have_the_stored_dtype() -> None:
    feeds = zero_feeds(SPECS)
    assert {name: (v.shape, v.dtype.name) for name, v in feeds.items()} == {
        "image": ((1, 4, 4), "float32"),
        "half": ((9,), "float16"),
        "pixels": ((900,), "uint8"),
        "stored": ((900,), "int8"),
        "token": ((50,), "int64"),
        "flag": ((50,), "bool"),
    }
    assert not any(values.any() for values in feeds.values())


def test_random_values_fill_the_declared_range_and_no_more() -> None:
    feeds = random_feeds(SPECS)
    assert feeds["image"].shape == (1, 4, 4)
    assert feeds["image"].dtype == np.float32
    assert 0 <= feeds["image"].min() < feeds["image"].max() <= 1
    assert feeds["half"].dtype == np.float16
    assert (feeds["pixels"].min(), feeds["pixels"].max()) == (0, 255)
    assert (feeds["stored"].min(), feeds["stored"].max()) == ((-128 - 10) * 0.5, (127 - 10) * 0.5)
    assert set(feeds["token"].tolist()) == {0, 1}
    assert feeds["flag"].dtype == bool


def test_the_seed_decides() -> None:
    same = random_feeds(SPECS, 7)
    assert all(np.array_equal(values, same[name]) for name, values in random_feeds(SPECS, 7).items())
    assert not np.array_equal(random_feeds(SPECS, 8)["image"], same["image"])
