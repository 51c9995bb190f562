"""Between the caller and the engine: what fits passes untouched, what does not is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeferry_runtime.codec import decoder, encoder
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Quantization, TensorSpec

FLOAT = TensorSpec("x", (2, 3), "float32")
REAL = np.ones((2, 3), np.float32)


def test_a_fitting_array_is_not_copied() -> None:
    assert encoder(FLOAT)(REAL) is REAL
    batch = TensorSpec("x", (-1, 3), "float32")
    assert encoder(batch)(REAL) is REAL


@pytest.mark.parametrize(
    "value",
    [
        REAL.astype(np.float64),
        REAL.astype(np.float16),
        REAL.astype(">f4"),
        REAL.astype(np.uint8),
        REAL.astype(bool),
        REAL.astype(np.int64),
        [[1, 1, 1], [1, 1, 1]],
        np.ones((3, 2), np.float32).T,
    ],
    ids=["f8", "f2", "big-endian", "u1", "bool", "i8", "list", "transposed"],
)
def test_what_loses_nothing_is_cast(value) -> None:
    stored = encoder(FLOAT)(value)
    assert stored.dtype == np.dtype(np.float32)
    assert np.array_equal(stored, REAL)


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (np.ones((2, 4), np.float32), "float32[2x4]"),
        (np.ones(6, np.float32), "float32[6]"),
        (np.full((2, 3), 2**24 + 1), "int64[2x3]"),
        (np.full((2, 3), 1e300), "float64[2x3]"),
        (np.ones((2, 3), np.complex64), "complex64[2x3]"),
        (np.full((2, 3), "a"), "<U1[2x3]"),
        (np.full((2, 3), None), "object[2x3]"),
        ([[1, 2], [3]], "a ragged sequence"),
    ],
)
def test_a_misfit_names_expected_and_given(value, given: str) -> None:
    with pytest.raises(DataError) as error:
        encoder(FLOAT)(value)
    assert "input x: takes float32[2x3]" in str(error.value)
    assert given in str(error.value)


def test_floats_are_no_indices() -> None:
    with pytest.raises(DataError, match="int32"):
        encoder(TensorSpec("x", (2, 3), "int32"))(REAL)
    small = encoder(TensorSpec("x", (2,), "int32"))(np.int64([1, -2]))
    assert small.dtype == np.int32
    with pytest.raises(DataError):
        encoder(TensorSpec("x", (1,), "int32"))(np.int64([2**40]))


@pytest.mark.slow
@given(
    st.sampled_from(["int8", "uint8", "int16"]),
    st.floats(2**-12, 2**6, width=32),
    hnp.arrays(np.float32, (1, 6), elements=st.floats(-1e4, 1e4, width=32)),
)
def test_quantizing_agrees_with_the_definition(dtype: str, scale: float, real: np.ndarray) -> None:
    quantization = Quantization((scale,), (5,))
    stored = encoder(TensorSpec("x", (1, 6), dtype, quantization))(real)
    exact = quantization.quantize(real, dtype)
    assert stored.dtype == np.dtype(dtype)
    assert np.max(np.abs(stored.astype(int) - exact.astype(int))) <= 1
    steps = real.astype(np.float64) / scale
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-2
    assert np.array_equal(stored[clear], exact[clear])


@pytest.mark.slow
@given(hnp.arrays(np.int8, (1, 6)), st.floats(2**-12, 2**6, width=32), st.integers(-128, 127))
def test_dequantizing_agrees_with_the_definition(stored: np.ndarray, scale: float, zero_point: int) -> None:
    quantization = Quantization((scale,), (zero_point,))
    decode = decoder(TensorSpec("y", (1, 6), "int8", quantization))
    assert decode is not None
    real = decode(stored)
    assert real.dtype == np.float32
    np.testing.assert_allclose(real, quantization.dequantize(stored), rtol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", (2,), "int8", Quantization((0.1,), (0,))),
        TensorSpec("x", (2,), "int32", Quantization((0.1,), (0,))),
        TensorSpec("x", (2,), "int8", Quantization((0.1, 0.2), (0, 0), 0)),
    ],
    ids=["plain", "wide", "per channel"],
)
def test_nan_has_no_stored_value(spec: TensorSpec) -> None:
    assert encoder(spec)([1.0, -1.0]).dtype == np.dtype(spec.dtype)
    with pytest.raises(DataError, match="NaN"):
        encoder(spec)([1.0, np.nan])


def test_infinity_saturates() -> None:
    spec = TensorSpec("x", (2,), "int8", Quantization((0.1,), (0,)))
    assert encoder(spec)([np.inf, -np.inf]).tolist() == [127, -128]


def test_scalars_are_quantized_too() -> None:
    spec = TensorSpec("x", (), "int8", Quantization((0.5,), (1,)))
    assert encoder(spec)(2.0) == 5
    decode = decoder(spec)
    assert decode is not None
    assert decode(np.array(5, np.int8)) == 2.0


def test_raw_takes_stored_values_only() -> None:
    spec = TensorSpec("x", (2,), "int8", Quantization((0.1,), (0,)))
    assert encoder(spec, raw=True)(np.int8([1, 2])).tolist() == [1, 2]
    with pytest.raises(DataError):
        encoder(spec, raw=True)(np.float32([1, 2]))
    with pytest.raises(DataError):
        encoder(spec, raw=True)([1, 300])


def test_float_outputs_need_no_decoding() -> None:
    assert decoder(FLOAT) is None
