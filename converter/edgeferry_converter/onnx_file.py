"""ONNX files of any size. Protobuf ends at 2 GiB: what is larger keeps its weights in a data file beside the graph.

Such a model is held as its graph alone, in which each large weight only says where it lies. The weights are read and
copied one at a time, so that no step holds them all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from edgeferry_runtime.tensors import Array

LARGEST = 2**31 - 2**26
"""Bytes of weights that one ONNX file can hold: 2 GiB, less room for the graph."""

SMALL = 1024
"""Bytes of a weight up to which it stays in the graph, as sizes and axes must that shape inference reads."""

ALIGNMENT = 4096
"""Of weights in a data file: a page, so that they can be mapped."""

CHUNK = 1 << 24

STRING, INT4, UINT4 = 8, 22, 21


class Place(NamedTuple):
    """Where the bytes of a weight lie.

    Attributes:
        file: In a model that was read its absolute path, in a file that was written its name.
        offset: Bytes before it.
        size: Its bytes.
    """

    file: str
    offset: int
    size: int


def read(path: Path) -> Any:
    """Read a model: whole where one file can hold it, else its graph, with large weights left where they lie.

    Returns:
        The ``ModelProto``; see `is_split`.

    Raises:
        ValueError, OSError, onnx.checker.ValidationError, google.protobuf.message.DecodeError: If it cannot be read.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    whole = size(model) <= LARGEST
    for tensor in filter(is_outside, tensors(model)):
        place = _place(tensor)
        place = place._replace(file=str(path.absolute().parent / place.file))
        _put_outside(tensor, place)
        if whole or place.size <= SMALL:
            gather(tensor)
    return model


def write(model: Any, path: Path) -> None:
    """Write a model: one file where that can hold it, else ``NAME.data`` beside it with the large weights.

    Args:
        model: What `read` gave, with whatever was added to it since. It is changed: its weights lie in the new file.
        path: The file to write; no weight of the model may lie in ``NAME.data`` beside it.

    Raises:
        ValueError, OSError, onnx.checker.ValidationError: If it cannot be written, or a weight cannot be read.
    """
    if size(model) > LARGEST:
        _write_data(model, path.with_name(f"{path.name}.data"))
    else:
        for tensor in filter(is_outside, tensors(model)):
            gather(tensor)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_graph(model: Any, path: Path) -> None:
    """Write the graph alone, into the folder in which the weights lie that were left outside."""
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in filter(is_outside, tensors(graph)):
        place = _place(tensor)
        _put_outside(tensor, place._replace(file=Path(place.file).name))
    path.write_bytes(graph.SerializeToString(deterministic=True))


def is_split(model: Any) -> bool:
    """Tell whether large weights lie in other files."""
    return any(map(is_outside, tensors(model)))


def is_outside(tensor: Any) -> bool:
    """Tell whether one weight lies in another file."""
    return bool(tensor.data_location)


def size(model: Any) -> int:
    """Return the bytes that all weights take, wherever they lie."""
    return sum(_place(tensor).size if is_outside(tensor) else int(tensor.ByteSize()) for tensor in tensors(model))


def values(tensor: Any) -> Array:
    """Return the values of a weight; one in another file is mapped, and read as far as it is looked at.

    Args:
        tensor: A ``TensorProto`` of a model that was read; it stays as it is.
    """
    from onnx import TensorProto, numpy_helper

    if is_outside(tensor) and tensor.data_type not in (INT4, UINT4):
        place = _place(tensor)
        stored = (
            np.memmap(place.file, np.uint8, "r", place.offset, (place.size,)) if place.size else np.zeros(0, np.uint8)
        )
        found: Array = stored.view(_dtype(tensor)).reshape(tuple(tensor.dims))
        return found
    inside = TensorProto()
    inside.CopyFrom(tensor)
    if is_outside(tensor):
        gather(inside)
    return np.asarray(numpy_helper.to_array(inside))


def tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor of a model: the weights of all its graphs, and those in attributes."""
    for graph in (model.graph, *model.functions):
        yield from _tensors(graph)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def _dtype(tensor: Any) -> Any:
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _place(tensor: Any) -> Place:
    """Return where a weight in another file lies; one that says no length is as long as its shape and type."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    bits = 4 if tensor.data_type in (INT4, UINT4) else 8 * _dtype(tensor).itemsize
    own = -(-int(np.prod(tensor.dims, dtype=np.int64)) * bits // 8)
    return Place(entries.get("location", ""), int(entries.get("offset") or 0), int(entries.get("length") or own))


def gather(tensor: Any) -> None:
    """Take a weight out of another file into the graph.

    Raises:
        ValueError: If its file ends too early.
    """
    data = io.BytesIO()
    _copy(_place(tensor), data)
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")
    tensor.raw_data = data.getvalue()


def _write_data(model: Any, path: Path) -> None:
    """Move each large weight into one file; those that shared bytes share them again."""
    written: dict[Place, Place] = {}
    with path.open("wb") as data:
        for tensor in tensors(model):
            if is_outside(tensor):
                old = _place(tensor)
                if old not in written:
                    written[old] = Place(path.name, _begin(data), old.size)
                    _copy(old, data)
                _put_outside(tensor, written[old])
            elif tensor.ByteSize() > SMALL and tensor.data_type != STRING:
                raw = _raw(tensor)
                _put_outside(tensor, Place(path.name, _begin(data), len(raw)))
                data.write(raw)


def _raw(tensor: Any) -> bytes:
    from onnx import numpy_helper

    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    raw: bytes = tensor.raw_data
    return raw


def _begin(data: IO[bytes]) -> int:
    """Go to where the next weight may begin."""
    return data.seek(-(-data.tell() // ALIGNMENT) * ALIGNMENT)


def _copy(place: Place, data: IO[bytes]) -> None:
    """Copy the bytes of a weight, some at a time.

    Raises:
        ValueError: If its file ends before they do.
    """
    left = place.size
    with Path(place.file).open("rb") as source:
        source.seek(place.offset)
        while left:
            chunk = source.read(min(CHUNK, left))
            if not chunk:
                raise ValueError(f"{Path(place.file).name} ends {left} bytes too early")
            data.write(chunk)
            left -= len(chunk)


def _put_outside(tensor: Any, place: Place) -> None:
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.size)):
        tensor.external_data.add(key=key, value=str(value))
