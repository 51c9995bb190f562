"""The grid: the integers of snapped weights are found again by whatever quantizes by the largest magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeferry_converter.compress.grid import (
    FIXED,
    LARGEST,
    activation_scale,
    clipped_scale,
    fake,
    moments,
    on_grid,
    snap,
    weight_scale,
)
from edgeferry_converter.quantize.onnx_weights import Layout, integers
from edgeferry_runtime.tensors import Array

EXTREME = st.sampled_from([0.0, 1e-30, 5e-10, 1e-9, 2e-9, 1e-3, 1.0, 1e3, 1e30, 3.4e38])
KERNELS = st.tuples(
    arrays(np.float32, (5, 4), elements=st.floats(-1, 1, width=32)), arrays(np.float32, (4,), elements=EXTREME)
).map(lambda pair: (pair[0] * pair[1]).astype(np.float32))
BITS = st.sampled_from([8, 4])
RANGES = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)).map(sorted)


def aeq(values: Array, bits: int) -> tuple[Array, Array]:
    """Quantize the last axis's channels by ai-edge-quantizer's own functions."""
    tool = pytest.importorskip("ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    from ai_edge_quantizer import qtyping

    low, high = values.min(0, keepdims=True), values.max(0, keepdims=True)
    zero, scale = tool.tensor_zp_scale_from_min_max(low, high, bits, True, qtyping.QuantGranularity.CHANNELWISE)
    parameters = qtyping.UniformQuantParams(bits, 1, scale, zero, True)
    return tool.uniform_quantize(values, parameters), scale


def ort(values: Array) -> Array:
    """Quantize the last axis's channels by onnxruntime.quantization's own function."""
    tool = pytest.importorskip("onnxruntime.quantization.quant_utils")
    from onnx import TensorProto

    columns = [tool.quantize_data(values[:, i], TensorProto.INT8, True)[2] for i in range(values.shape[1])]
    return np.stack(columns, 1)


@pytest.mark.slow
@given(KERNELS, BITS)
def test_integers_are_those_of_ai_edge_quantizer(values: Array, bits: int) -> None:
    stored, scale = aeq(values, bits)
    found, own = on_grid(values, (1,), bits)
    empty = np.abs(values).max(0) <= 1e-9
    np.testing.assert_array_equal(own, scale)
    np.testing.assert_array_equal(found[:, ~empty], stored[:, ~empty])
    assert not found[:, empty].any()


@pytest.mark.slow
@given(KERNELS, BITS, st.booleans())
def test_snapped_weights_are_quantized_to_the_same_integers_by_everyone(
    values: Array, bits: int, clipped: bool
) -> None:
    scale = clipped_scale(values, (1,), bits) if clipped else None
    wanted, _ = on_grid(values, (1,), bits, scale)
    snapped = snap(values, (1,), bits, scale)
    np.testing.assert_array_equal(on_grid(snapped, (1,), bits)[0], wanted)
    np.testing.assert_array_equal(aeq(snapped, bits)[0], wanted)
    np.testing.assert_array_equal(integers(snapped, Layout(bits, 1))[0], wanted)
    if bits == 8:
        np.testing.assert_array_equal(ort(snapped), wanted)


@pytest.mark.slow
@given(KERNELS, BITS)
def test_a_channel_that_holds_something_holds_the_largest_integer(values: Array, bits: int) -> None:
    for scale in (None, clipped_scale(values, (1,), bits)):
        found, _ = on_grid(values, (1,), bits, scale)
        full = np.abs(values).max(0) > 1e-9
        np.testing.assert_array_equal(np.abs(found).max(0), np.where(full, LARGEST[bits], 0))


@pytest.mark.slow
@given(KERNELS, BITS)
def test_zero_stays_zero(values: Array, bits: int) -> None:
    assert not snap(values, (1,), bits)[values == 0].any()


def test_clipping_lowers_the_error_of_four_bits() -> None:
    values = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    errors = [np.mean((snap(values, (1,), 4, s) - values) ** 2) for s in (None, clipped_scale(values, (1,)))]
    assert errors[1] < 0.8 * errors[0]


def test_a_depthwise_kernel_has_a_scale_for_each_pair_of_channel_and_multiplier() -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 4, 2)).astype(np.float32)
    assert weight_scale(values, (2, 3)).shape == (1, 1, 4, 2)
    np.testing.assert_array_equal(np.abs(on_grid(values, (2, 3))[0]).max((0, 1)), 127)


@given(RANGES)
def test_activations_have_the_scale_and_zero_of_ai_edge_quantizer(bounds: list[float]) -> None:
    tool = pytest.importorskip("ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    from ai_edge_quantizer import qtyping

    low, high = (np.full((1, 1), value, np.float32) for value in bounds)
    zero, scale = tool.tensor_zp_scale_from_min_max(low, high, 8, False, qtyping.QuantGranularity.TENSORWISE)
    assert activation_scale(*bounds) == (scale[0, 0], zero[0, 0])


@given(RANGES)
def test_zero_is_a_step_of_every_range(bounds: list[float]) -> None:
    assert fake(np.zeros(1, np.float32), *bounds)[0] == 0


def test_fixed_ranges_are_those_of_the_kernels() -> None:
    assert activation_scale(*FIXED["softmax"]) == activation_scale(*FIXED["sigmoid"]) == (1 / 256, -128)
    assert activation_scale(*FIXED["tanh"]) == (1 / 128, 0)


def test_moments_are_the_same_in_every_layout() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    one, other = moments(values), moments(values.transpose(0, 3, 1, 2))
    assert one.count == other.count == 90
    np.testing.assert_allclose([one.low, one.mean, one.square], [other.low, other.mean, other.square], rtol=1e-12)
