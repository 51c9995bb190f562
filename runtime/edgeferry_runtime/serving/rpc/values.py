"""Tensors as lists of values in a message, where they are not bytes in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.tensors import Array

ONE_BY_ONE = 1 << 16
"""Elements that others wait for while they are read one by one: some milliseconds."""


MOST_NAMED = 1 << 10
"""Tensors and parameters that a request may name: each takes some microseconds, while others wait."""


def refuse_crowd(named: int) -> None:
    """Refuse a request that names too many things.

    Raises:
        RefusedError: INVALID.
    """
    if named > MOST_NAMED:
        reason = f"names {named} tensors and parameters, and {MOST_NAMED} are allowed"
        raise RefusedError(Kind.INVALID, "the request", reason, "send what the model takes")


def from_list(name: str, values: Sequence[Any], dtype: np.dtype[np.generic]) -> Array:
    """Make an array of one axis out of values.

    Args:
        name: The tensor.
        values: Numbers of protobuf's types, or bytes where `dtype` is `object`; the latter become text, since that is
            what every engine takes.
        dtype: The dtype to have.

    Raises:
        RefusedError: INVALID, if a number is beyond the dtype's range, or bytes are no UTF-8.
    """
    if dtype.kind == "O":
        return _texts(name, values)
    if dtype.kind not in "iu" or dtype.itemsize >= 4:
        return np.fromiter(values, dtype, len(values))
    wide = np.fromiter(values, np.int64, len(values))
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        reason = f"holds {wide.min()} to {wide.max()}, which {dtype} cannot"
        raise refused(name, reason, f"send {limits.min} to {limits.max}")
    return wide.astype(dtype)


def to_list(value: Array) -> list[Any]:
    """Return the values of an array in the order of its rows; texts as bytes."""
    if value.dtype.kind == "O":
        return [element if isinstance(element, bytes) else str(element).encode() for element in value.ravel()]
    found: list[Any] = value.ravel().tolist()
    return found


def refused(name: str, reason: str, fix: str) -> RefusedError:
    """Return the error that refuses a tensor."""
    return RefusedError(Kind.INVALID, f"tensor {name[:80]!r}", reason, fix)


def _texts(name: str, elements: Iterable[bytes]) -> Array:
    try:
        texts = [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise refused(name, "holds an element that is no UTF-8", "send text, which is what engines take") from None
    found: Array = np.empty(len(texts), object)
    found[:] = texts
    return found
