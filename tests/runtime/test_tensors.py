"""Quantization: laws that hold for every scale, and the descriptions of tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeferry_runtime.tensors import Quantization, TensorSpec

DTYPES = st.sampled_from(["int8", "uint8", "int16"])
SCALES = st.floats(1e-6, 1e3)


@pytest.mark.slow
@given(DTYPES, SCALES, st.data())
def test_stored_values_survive_the_round_trip(dtype: str, scale: float, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    quantization = Quantization((scale,), (data.draw(st.integers(int(limits.min), int(limits.max))),))
    stored = data.draw(hnp.arrays(dtype, (7,)))
    assert np.array_equal(quantization.quantize(quantization.dequantize(stored), dtype), stored)


@pytest.mark.slow
@given(DTYPES, SCALES, st.data())
def test_real_values_in_range_come_back_within_half_a_step(dtype: str, scale: float, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    quantization = Quantization((scale,), (0,))
    low, high = max(limits.min, -100) * scale, min(limits.max, 100) * scale
    real = data.draw(hnp.arrays(np.float64, (5,), elements=st.floats(low, high)))
    back = quantization.dequantize(quantization.quantize(real, dtype))
    assert np.all(np.abs(back - real) <= scale * (0.5 + 1e-4))


@given(SCALES, st.integers(-128, 127), hnp.arrays(np.float32, (5,), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_quantize_saturates_and_keeps_the_order(scale: float, zero_point: int, real: np.ndarray) -> None:
    stored = Quantization((scale,), (zero_point,)).quantize(np.sort(real), "int8")
    assert np.all(np.diff(stored.astype(int)) >= 0)


def test_zero_is_exact() -> None:
    quantization = Quantization((0.1,), (17,))
    assert quantization.quantize([0.0], "int8").tolist() == [17]
    assert quantization.dequantize(np.int8([17])).tolist() == [0.0]


def test_per_channel_uses_the_scale_of_each_channel() -> None:
    quantization = Quantization((1.0, 0.5), (0, 10), axis=1)
    real = np.float32([[2, 2], [3, 3]])
    stored = quantization.quantize(real, "int8")
    assert stored.tolist() == [[2, 14], [3, 16]]
    assert np.array_equal(quantization.dequantize(stored), real)


@pytest.mark.parametrize("quantization", [None, Quantization((0.5,), (3,)), Quantization((0.5, 1.0), (0, 0), 1)])
def test_spec_survives_json(quantization: Quantization | None) -> None:
    spec = TensorSpec("x", (-1, 2), "int8", quantization)
    assert TensorSpec.from_dict(spec.to_dict()) == spec


def test_spec_accepts_any_size_where_it_is_dynamic() -> None:
    spec = TensorSpec("x", (-1, 2), "float32")
    assert spec.accepts((1, 2))
    assert spec.accepts((9, 2))
    assert not spec.accepts((1, 3))
    assert not spec.accepts((2,))
    assert str(spec) == "x float32[?x2]"
