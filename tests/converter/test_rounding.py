"""Rounding by what a layer is fed: never worse than to the nearest, and better where inputs hang together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.quantize.rounding import BLOCK, WAITING, Moments, round_weights, squared_error
from edgeferry_runtime.tensors import Array

MATRICES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 40), st.integers(0, 999))


def moments_of(rows: Array) -> Moments:
    moments = Moments.empty(*rows.shape[1:])
    moments.add(rows)
    return moments


def correlated(rows: int, depth: int, seed: int = 0) -> Array:
    """Inputs of a few hidden causes, as activations are."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((rows, max(depth // 8, 1))) @ random.standard_normal((max(depth // 8, 1), depth))
    return np.asarray(np.maximum(hidden + 0.1 * random.standard_normal((rows, depth)), 0)[:, np.newaxis], np.float32)


@pytest.mark.slow
@given(MATRICES)
def test_no_channel_is_worse_than_rounded_to_the_nearest(shape: tuple[int, int, int, int, int]) -> None:
    groups, channels, depth, rows, seed = shape
    random = np.random.default_rng(seed)
    weights = random.normal(0, 40, (groups, channels, depth))
    hessian = moments_of(random.standard_normal((rows, groups, depth)).astype(np.float32)).hessian(centered=False)
    rounded = round_weights(weights, hessian, 127)
    nearest = np.clip(np.rint(weights), -127, 127)
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 127
    worst = squared_error(weights - nearest, hessian) - squared_error(weights - rounded, hessian)
    assert worst.min() >= -1e-9


def test_outputs_of_correlated_inputs_come_much_closer() -> None:
    depth = 2 * BLOCK + 5
    inputs, weights = correlated(4000, depth), np.random.default_rng(1).normal(0, 30, (1, 16, depth))
    rounded = round_weights(weights, moments_of(inputs[:2000]).hessian(centered=False), 127)
    noise = [np.mean((inputs[2000:, 0] @ (weights - found)[0].T) ** 2) for found in (np.rint(weights), rounded)]
    assert noise[1] < noise[0] / 5


def test_the_mean_error_is_left_to_the_bias() -> None:
    """A constant input costs nothing where a bias makes up for it, and all where there is none."""
    inputs = np.full((10, 1, 4), 3, np.float32)
    difference = np.ones((1, 1, 4))
    assert squared_error(difference, moments_of(inputs).hessian(centered=True)) == 0
    assert squared_error(difference, moments_of(inputs).hessian(centered=False)) == 144


def test_what_a_layer_is_never_fed_is_rounded_to_the_nearest() -> None:
    weights = np.array([[[0.4, -1.6, 300.0]]])
    assert round_weights(weights, np.zeros((1, 3, 3)), 127).tolist() == [[[0, -2, 127]]]


@pytest.mark.parametrize("value", [np.inf, np.nan, -3.4e38])
def test_inputs_that_stand_for_infinity_are_told(value: float) -> None:
    rows = correlated(10, 4)
    assert moments_of(rows).finite
    rows[3, 0, 2] = value
    assert not moments_of(rows).finite
    assert not Moments.empty(1, 4).finite


def test_moments_do_not_depend_on_how_inputs_come() -> None:
    rows = correlated(2 * WAITING + 7, 9)
    whole, parts = moments_of(rows), Moments.empty(1, 9)
    for part in np.array_split(rows, 50):
        parts.add(part)
    assert len(parts.waiting) < WAITING, "what is kept does not grow"
    np.testing.assert_allclose(parts.hessian(centered=True), np.cov(rows[:, 0].T, bias=True)[np.newaxis], rtol=1e-4)
    np.testing.assert_allclose(parts.hessian(centered=True), whole.hessian(centered=True), rtol=1e-4, atol=1e-6)
    assert (whole.rows, parts.rows, parts.samples) == (len(rows), len(rows), 50)
