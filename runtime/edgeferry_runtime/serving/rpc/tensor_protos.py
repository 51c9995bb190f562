"""``tensorflow.TensorProto`` to arrays and back.

Source: TensorFlow, ``tensor.proto`` and `tf.make_ndarray`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeferry_runtime.serving.raw import read_raw
from edgeferry_runtime.serving.rpc.inference_messages import Check
from edgeferry_runtime.serving.rpc.values import ONE_BY_ONE, from_list, refused, to_list
from edgeferry_runtime.tensors import Array

TYPES: Mapping[int, tuple[str, np.dtype[np.generic], str]] = MappingProxyType(
    {
        number: (name, np.dtype(dtype), field)
        for number, name, dtype, field in (
            (1, "DT_FLOAT", "f4", "float_val"),
            (2, "DT_DOUBLE", "f8", "double_val"),
            (3, "DT_INT32", "i4", "int_val"),
            (4, "DT_UINT8", "u1", "int_val"),
            (5, "DT_INT16", "i2", "int_val"),
            (6, "DT_INT8", "i1", "int_val"),
            (7, "DT_STRING", "O", "string_val"),
            (9, "DT_INT64", "i8", "int64_val"),
            (10, "DT_BOOL", "?", "bool_val"),
            (17, "DT_UINT16", "u2", "int_val"),
            (19, "DT_HALF", "f2", "half_val"),
            (22, "DT_UINT32", "u4", "uint32_val"),
            (23, "DT_UINT64", "u8", "uint64_val"),
        )
    }
)
"""By number of ``DataType``: its name, NumPy's dtype, and which list holds values of it."""

NUMBERS = {dtype: number for number, (_, dtype, _) in TYPES.items()}


def takes_long(tensors: Collection[Any]) -> bool:
    """Tell whether ``TensorProto``s have so many elements to be read one by one that others would wait."""
    lists = [one.tensor_shape.dim for one in tensors]
    lists += [getattr(one, TYPES[one.dtype][2]) for one in tensors if one.dtype in TYPES]
    return sum(map(len, lists)) > ONE_BY_ONE


def read_tensor(name: str, tensor: Any, check: Check) -> Array:
    """Read a ``TensorProto``: its content, or a list of values, the last of which stands for those that are missing.

    A numeric tensor without any value is zero everywhere, and one of texts holds empty ones, as TensorFlow writes it.

    Raises:
        RefusedError: INVALID or TOO_LARGE.
    """
    if tensor.dtype not in TYPES:
        known = ", ".join(known for known, _, _ in TYPES.values())
        raise refused(name, f"has the dtype {tensor.dtype}, which is none that models take", f"send one of: {known}")
    if tensor.tensor_shape.unknown_rank:
        raise refused(name, "has no shape", "send tensor_shape with a size of each dimension")
    _, dtype, field = TYPES[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    check(name, shape, dtype)
    if not tensor.tensor_content:
        return _read_values(name, getattr(tensor, field), shape, dtype)
    if dtype.kind == "O":
        raise refused(name, "holds texts as tensor_content", "send them as string_val")
    return read_raw(name, dtype, shape, memoryview(tensor.tensor_content))


def _read_values(name: str, values: Any, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    size = prod(shape)
    if len(values) > size:
        raise refused(name, f"has {len(values)} values, and its shape {list(shape)} takes {size}", "send no more")
    half = dtype == np.float16
    given = from_list(name, values, np.dtype(np.uint16) if half else dtype)
    given = given.view(np.float16) if half else given
    if len(given) == size:
        return given.reshape(shape)
    last = given[-1] if len(given) else "" if dtype.kind == "O" else dtype.type()
    found: Array = np.full(size, last, dtype)
    found[: len(given)] = given
    return found.reshape(shape)


def number_of(dtype: np.dtype[np.generic]) -> int:
    """Return the number of a dtype; texts of any kind are DT_STRING."""
    return NUMBERS.get(dtype, NUMBERS[np.dtype(object)])


def write_tensor(value: Array, tensor: Any) -> None:
    """Write an array into an empty ``TensorProto``: numbers as content, texts as values."""
    tensor.dtype = number_of(value.dtype)
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    if value.dtype.kind == "O":
        tensor.string_val.extend(to_list(value))
    else:
        tensor.tensor_content = value.tobytes()
