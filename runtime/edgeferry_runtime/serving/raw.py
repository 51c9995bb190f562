"""Tensors as bytes in a row, as the Open Inference Protocol sends them over REST and over gRPC.

Source: KServe, "Binary Tensor Data Extension": little-endian, row-major, without padding; a BOOL is one byte, 0 or 1;
an element of BYTES is its length in four bytes, and then itself.
"""

from __future__ import annotations

import struct
from math import prod

import numpy as np

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.tensors import Array

LENGTH = struct.Struct("<I")


def read_raw(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], data: memoryview) -> Array:
    """Read a tensor without a copy, where its place in memory allows that.

    Args:
        name: The tensor.
        dtype: Its dtype; `object` is BYTES, whose elements become text, since that is what every engine takes.
        shape: Its shape.
        data: All of its bytes, and no others.

    Returns:
        An array of `dtype` and `shape`, which may be read-only.

    Raises:
        RefusedError: INVALID, if the bytes are not those of such a tensor.
    """
    if dtype.kind == "O":
        return _array(_texts(name, prod(shape), data), shape)
    size = prod(shape) * dtype.itemsize
    if size != len(data):
        reason = f"has {len(data)} bytes, and its shape {list(shape)} of {dtype} takes {size}"
        raise _refused(name, reason, "send the bytes of every element")
    if dtype.kind == "b" and size and np.frombuffer(data, np.uint8).max() > 1:
        raise _refused(name, "holds a BOOL that is neither 0 nor 1", "send one byte for each, 0 or 1")
    value: Array = np.frombuffer(data, dtype).reshape(shape)
    return value if value.flags.aligned else value.copy()


def write_raw(value: Array) -> bytes | memoryview:
    """Write a tensor of any of the protocol's dtypes; without a copy, where its elements lie in a row."""
    if value.dtype.kind == "O":
        elements = [e if isinstance(e, bytes) else str(e).encode() for e in value.ravel()]
        return b"".join(part for e in elements for part in (LENGTH.pack(len(e)), e))
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data


def _texts(name: str, count: int, data: memoryview) -> list[str]:
    """Read `count` elements, each a length and as many bytes."""
    found, at, end = [], 0, len(data)
    for _ in range(min(count, end // LENGTH.size)):
        start = at + LENGTH.size
        at = start + LENGTH.unpack_from(data, at)[0] if start <= end else end + 1
        if at > end:
            break
        found.append(_text(name, data[start:at]))
    if len(found) != count or at != end:
        reason = f"has {end} bytes, which are not the lengths and bytes of {count} elements"
        raise _refused(name, reason, "send the length of each element in four bytes, the lowest first, and its bytes")
    return found


def _text(name: str, data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise _refused(name, "holds an element that is no UTF-8", "send text, which is what engines take") from None


def _array(texts: list[str], shape: tuple[int, ...]) -> Array:
    value: Array = np.empty(len(texts), object)
    value[:] = texts
    return value.reshape(shape)


def _refused(name: str, reason: str, fix: str) -> RefusedError:
    return RefusedError(Kind.INVALID, f"tensor {name[:80]!r}", reason, fix)
