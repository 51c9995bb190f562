"""Trained ranges find their tensors by value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeferry_converter.compress.grid import Moments, moments
from edgeferry_converter.quantize.calibration.observer import Statistics, collect
from edgeferry_converter.quantize.trained import SAME, distance, match

VALUES = arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=4), elements=st.floats(-100, 100, width=32))


def seen(tensors: Mapping[str, np.ndarray]) -> Statistics:
    """Show arrays of [samples, ...] sample by sample, as an artifact would."""
    count = len(next(iter(tensors.values())))
    samples = ({"x": np.array([i])} for i in range(count))
    return collect(lambda s: [(n, v[int(s["x"][0])][None]) for n, v in tensors.items()], samples, False, sums=True)


def known(layers: Mapping[str, np.ndarray]) -> dict[str, Moments]:
    return {name: moments(values) for name, values in layers.items()}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@given(VALUES, st.permutations([1, 2, 3]))
def test_an_activation_is_known_again_in_every_layout(values: np.ndarray, order: list[int]) -> None:
    """Property: moments depend neither on the order of axes nor on how samples are shown."""
    figures = seen({"t": values.transpose(0, *order)}).tensors["t"].figures(len(values))
    assert distance(figures, moments(values)) <= SAME
    assert distance(moments(values.reshape(len(values), -1)), moments(values)) <= SAME


@pytest.mark.slow
@given(VALUES, VALUES)
def test_the_distance_is_symmetric(a: np.ndarray, b: np.ndarray) -> None:
    assert distance(moments(a), moments(b)) == distance(moments(b), moments(a))
    assert distance(moments(a), moments(a)) == 0


def test_every_tensor_of_the_same_values_takes_the_range() -> None:
    conv, other = normal(5, 4, 4, 3), normal(5, 48, seed=1)
    tensors = {"conv": conv, "nchw": conv.transpose(0, 3, 1, 2), "flat": conv.reshape(5, -1), "other": other}
    matched = match({"conv": (-1.0, 2.0)}, known({"conv": conv}), seen(tensors))
    assert matched.ranges == dict.fromkeys(("conv", "nchw", "flat"), (-1.0, 2.0))
    assert matched.tensors == {"conv": ("conv", "nchw", "flat")}
    assert matched.warnings() == ()


def test_a_rectified_activation_is_not_the_one_before_it() -> None:
    before = normal(5, 40)
    layers = {"conv": before, "act": np.maximum(before, 0)}
    ranges = {"conv": (-1.0, 1.0), "act": (0.0, 3.0)}
    matched = match(ranges, known(layers), seen({"a": layers["act"], "b": layers["conv"]}))
    assert matched.ranges == {"a": (0.0, 3.0), "b": (-1.0, 1.0)}


def test_what_finds_no_tensor_is_named() -> None:
    layers = {"conv1": normal(5, 40), "conv2": normal(5, 40, seed=1)}
    ranges = {"conv1": (0.0, 1.0), "conv2": (0.0, 1.0), "unknown": (0.0, 1.0)}
    matched = match(ranges, known(layers), seen({"a": layers["conv1"]}))
    assert matched.missing == ("conv2", "unknown")
    assert matched.warnings() == ("2 of 3 trained ranges found no tensor: conv2, unknown",)


def test_two_ranges_for_the_same_values_are_refused() -> None:
    values = normal(5, 40)
    matched = match({"a": (0.0, 1.0), "b": (0.0, 2.0)}, known({"a": values, "b": values}), seen({"t": values}))
    assert matched.ranges == {}
    assert matched.ambiguous == {"t": ("a", "b")}
    told = "tensor 't' may be of 'a' or of 'b', whose trained ranges differ: it is calibrated"
    assert matched.warnings() == ("2 of 2 trained ranges found no tensor: a, b", told)


def test_one_range_for_the_same_values_is_taken() -> None:
    values = normal(5, 40)
    matched = match({"a": (0.0, 1.0), "b": (0.0, 1.0)}, known({"a": values, "b": values}), seen({"t": values}))
    assert matched.ranges == {"t": (0.0, 1.0)}
    assert matched.missing == ()


def test_the_nearest_of_two_near_layers_is_taken() -> None:
    values = normal(5, 400)
    layers = {"near": values * (1 + 1e-6), "far": values * (1 + 5e-4)}
    matched = match({"far": (0.0, 1.0), "near": (0.0, 2.0)}, known(layers), seen({"t": values}))
    assert matched.ranges == {"t": (0.0, 2.0)}
    assert matched.missing == ("far",)


@pytest.mark.parametrize("error", [2e-3, -2e-3])
def test_what_is_farther_than_the_tolerance_is_another(error: float) -> None:
    values = normal(5, 400)
    assert match({"a": (0.0, 1.0)}, known({"a": values * (1 + error)}), seen({"t": values})).ranges == {}


def test_another_number_of_values_is_another_activation() -> None:
    ones = np.ones((5, 8), np.float32)
    assert match({"a": (0.0, 1.0)}, known({"a": ones}), seen({"t": ones[:, :4]})).ranges == {}
