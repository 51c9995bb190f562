"""The prepared way of a tensor between the caller and its engine: what `Model` does to each array, and no more.

Each function here is called once, when a model is loaded, and returns the function of the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, Quantization, TensorSpec

Encode = Callable[[Any], Array]
Decode = Callable[[Array], Array]

FLOAT32 = np.dtype(np.float32)


def encoder(spec: TensorSpec, raw: bool = False) -> Encode:
    """Return what turns a caller's value into the stored array of an input.

    Args:
        spec: The input.
        raw: Whether the caller gives stored values.

    Returns:
        A function that raises DataError for a value whose shape or dtype does not fit.
    """
    if raw or spec.quantization is None:
        return _fitter(spec, np.dtype(spec.dtype))
    fit, quantize = _fitter(spec, FLOAT32), quantizer(spec, spec.quantization)
    return lambda value: quantize(fit(value))


def decoder(spec: TensorSpec) -> Decode | None:
    """Return what turns a stored output into real values; None where the stored values are the real ones."""
    if spec.quantization is None:
        return None
    quantization = spec.quantization
    if not _is_plain(spec, quantization):
        return quantization.dequantize
    scale, zero_point = _constants(quantization)

    def dequantize(stored: Array) -> Array:
        real: Array = stored.astype(FLOAT32)
        real -= zero_point
        real *= scale
        return real

    return dequantize


def quantizer(spec: TensorSpec, quantization: Quantization) -> Encode:
    """Return what quantizes float32 arrays of an input; NaN, which no integer stands for, raises DataError."""
    dtype = np.dtype(spec.dtype)
    if not _is_plain(spec, quantization):

        def quantize_any(real: Array) -> Array:
            _refuse_nan(spec, np.isnan(real).any())
            return quantization.quantize(real, spec.dtype)

        return quantize_any
    scale, zero_point = _constants(quantization)
    low, high = (np.array(limit, FLOAT32) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))

    def quantize(real: Array) -> Array:
        steps: Array = real / scale
        np.rint(steps, steps)
        steps += zero_point
        np.maximum(steps, low, out=steps)
        np.minimum(steps, high, out=steps)
        if not np.vdot(steps, steps) >= 0:
            _refuse_nan(spec, True)
        return steps.astype(dtype)

    return quantize


def _is_plain(spec: TensorSpec, quantization: Quantization) -> bool:
    """Tell whether float32 holds every stored value, with one scale for all of an array."""
    return quantization.axis is None and np.dtype(spec.dtype).itemsize <= 2 and len(spec.shape) > 0


def _constants(quantization: Quantization) -> tuple[Array, Array]:
    return np.array(quantization.scale[0], FLOAT32), np.array(quantization.zero_point[0], FLOAT32)


def _refuse_nan(spec: TensorSpec, found: bool | np.bool_) -> None:
    if found:
        raise DataError(spec.name, f"holds NaN, which no {spec.dtype} stands for", "remove it from the input")


def _fitter(spec: TensorSpec, dtype: np.dtype[Any]) -> Encode:
    """Return what passes a fitting array through as it is, and casts or refuses any other value."""
    array, shape, tail = np.ndarray, spec.shape, spec.shape[1:]

    def fit(value: Any) -> Array:
        if type(value) is array and value.dtype == dtype and value.shape == shape:
            return value
        return _fit(value, spec, dtype)

    def fit_batch(value: Any) -> Array:
        if type(value) is array and value.dtype == dtype and value.shape[1:] == tail and value.ndim:
            return value
        return _fit(value, spec, dtype)

    return fit_batch if shape[:1] == (-1,) and -1 not in tail else fit


def _fit(value: Any, spec: TensorSpec, dtype: np.dtype[Any]) -> Array:
    try:
        given = np.asarray(value)
    except ValueError:
        raise _misfit(spec, dtype, "a ragged sequence") from None
    if not spec.accepts(given.shape):
        raise _misfit(spec, dtype, f"{given.dtype}[{'x'.join(map(str, given.shape))}]")
    if given.dtype == dtype:
        return given
    cast = _cast(given, dtype)
    if cast is None:
        raise _misfit(spec, dtype, f"{given.dtype}[{'x'.join(map(str, given.shape))}] that it cannot hold without loss")
    return cast


def _cast(given: Array, dtype: np.dtype[Any]) -> Array | None:
    """Cast where no value changes; floats may be rounded to a lower precision, though not to infinity."""
    if dtype.kind == "O":
        return given.astype(dtype) if given.dtype.kind in "US" else None
    if np.can_cast(given.dtype, dtype, "safe") and given.dtype.kind != "O":
        return given.astype(dtype)
    if given.dtype.kind == dtype.kind and dtype.kind in "fc":
        with np.errstate(over="ignore"):
            cast = given.astype(dtype)
        return cast if np.array_equal(np.isinf(cast), np.isinf(given)) else None
    if given.dtype.kind not in "iub" or dtype.kind not in "iuf":
        return None
    cast = given.astype(dtype)
    same = np.array_equal(cast.astype(np.float64), given.astype(np.float64))
    return cast if same and np.array_equal(cast.astype(given.dtype), given) else None


def _misfit(spec: TensorSpec, dtype: np.dtype[Any], given: str) -> DataError:
    wanted = TensorSpec(spec.name, spec.shape, dtype.name)
    return DataError(
        f"input {spec.name}",
        f"takes {str(wanted).removeprefix(spec.name + ' ')}, and was given {given}",
        "give an array of that shape and dtype",
    )
