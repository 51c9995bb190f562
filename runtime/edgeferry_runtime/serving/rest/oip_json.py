"""Tensors in the JSON of the Open Inference Protocol.

Source: Open Inference Protocol v2, "Tensor Data": flat, or nested as the shape is.
"""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any

import numpy as np

from edgeferry_runtime.serving.datatypes import NAMES
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.tensors import Array

ELEMENTS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "texts"),
}
"""By a dtype's kind, the Python types that JSON's elements may have, and what to call them."""


def read_json(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], data: Any) -> Array:
    """Read a tensor.

    Args:
        name: The tensor.
        dtype: Its dtype; `object` is BYTES.
        shape: Its shape.
        data: Its elements, as JSON was parsed: flat, or nested as `shape` is.

    Raises:
        RefusedError: INVALID, if it is no such tensor, or an element is none of `dtype`.
    """
    if dtype == np.float16:
        raise _refused(name, "is FP16, which JSON has no form for", "send it by binary_data_size, or as FP32")
    elements = _flat(name, shape, data)
    types, known = ELEMENTS[dtype.kind]
    if not types.issuperset(map(type, elements)):
        raise _refused(name, f"has elements that are no {known}", f"send {known} for {NAMES[dtype]}")
    return _array(name, dtype, elements).reshape(shape)


def write_json(name: str, value: Array) -> Any:
    """Return what stands for a tensor's data: its elements, flat.

    Raises:
        RefusedError: INVALID, if JSON has no form for them.
    """
    if value.dtype == np.float16:
        raise _refused(name, "is FP16, which JSON has no form for", "ask for it with binary_data")
    if value.dtype.kind != "O":
        return value.ravel()
    try:
        return [e.decode() if isinstance(e, bytes) else str(e) for e in value.flat]
    except UnicodeDecodeError:
        raise _refused(name, "holds bytes that are no text", "ask for it with binary_data") from None


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    if type(data) is not list:
        raise _refused(name, "has no array of data", "send data, or binary_data_size and its bytes behind the JSON")
    elements: list[Any] = _unnested(name, shape, data) if data and type(data[0]) is list else data
    if len(elements) != prod(shape):
        reason = f"has {len(elements)} elements, and its shape {list(shape)} takes {prod(shape)}"
        raise _refused(name, reason, "send every element")
    return elements


def _unnested(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    level = [data]
    for size in shape:
        if not {list}.issuperset(map(type, level)) or not {size}.issuperset(map(len, level)):
            raise _refused(name, f"is nested otherwise than its shape {list(shape)}", "send it flat, or as its shape")
        level = list(chain.from_iterable(level))
    return level


def _array(name: str, dtype: np.dtype[np.generic], elements: list[Any]) -> Array:
    if dtype.kind in "iu" and elements:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if min(elements) < limits.min or max(elements) > limits.max:
            raise _refused(name, f"has elements beyond {NAMES[dtype]}", f"send {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        value: Array = np.array(elements, np.float64).astype(dtype) if dtype.kind == "f" else np.array(elements, dtype)
    if dtype.kind == "f" and np.isinf(value).any():
        raise _refused(name, f"has elements beyond {NAMES[dtype]}", "send numbers that it can hold")
    return value


def _refused(name: str, reason: str, fix: str) -> RefusedError:
    return RefusedError(Kind.INVALID, f"tensor {name[:80]!r}", reason, fix)
