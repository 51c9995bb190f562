"""Changes to a TFLite file that make it another source: one of its signatures chosen, sizes pinned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.signature import pack
from edgeferry_converter.sources.tensors import Shapes, check_shape_names
from edgeferry_runtime.engines.litert import import_engine
from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array

FLOATS = {0: "float32", 1: "float16"}
"""NumPy's names of the float types, by their number in the schema."""


def tree_of(model: bytes) -> Any:
    """Parse a TFLite flatbuffer into the schema's objects."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def choose_signatures(model: bytes, keys: Sequence[str]) -> bytes:
    """Keep these signatures, in this order.

    Raises:
        UnknownNameError: If the file has no such signature.
    """
    tree = tree_of(model)
    found = {signature.signatureKey.decode(): signature for signature in tree.signatureDefs or []}
    for key in keys:
        if key not in found:
            raise UnknownNameError("--signature", key, found or ["none: the file has no signature"])
    if tuple(found) == tuple(keys):
        return model
    tree.signatureDefs = [found[key] for key in keys]
    return pack(tree)


def pin(path: Path, model: bytes, shapes: Shapes) -> bytes:
    """Give the inputs of the only signature these sizes, and every other tensor what follows from them.

    Args:
        path: The file, for errors.
        model: Its content, which has a signature.
        shapes: Positive sizes by input name.

    Raises:
        UnknownNameError: If a shape names no input.
        UsageError: If a size is open, or contradicts the model, or there are several signatures.
    """
    tree = tree_of(model)
    if len(tree.signatureDefs) > 1:
        reason = f"sizes are for a model of one signature, and {path} has {len(tree.signatureDefs)}"
        raise UsageError("--shape", reason, "choose one of them with --signature")
    signature = tree.signatureDefs[0]
    index = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
    check_shape_names(shapes, list(index))
    tensors = tree.subgraphs[signature.subgraphIndex].tensors
    for name, shape in shapes.items():
        tensor = tensors[index[name]]
        _check_fits(name, shape, tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature)
    if signature.subgraphIndex:
        raise UsageError("--shape", f"the signature of {path} is not its main graph", "leave it out")
    with foreign(path, "LiteRT refuses these sizes", "check --shape", UsageError):
        interpreter = import_engine(path).interpreter(model_content=model)
        for name, shape in shapes.items():
            interpreter.resize_tensor_input(index[name], shape)
        interpreter.allocate_tensors()
        for details in interpreter.get_tensor_details():
            if details["index"] < len(tensors):
                tensor = tensors[details["index"]]
                tensor.shape, tensor.shapeSignature = [int(size) for size in details["shape"]], None
    return pack(tree)


def _check_fits(name: str, shape: tuple[int, ...], declared: Any) -> None:
    said = [int(size) for size in declared]
    if len(shape) != len(said) or any(b not in (-1, a) for a, b in zip(shape, said, strict=True)) or min(shape) < 1:
        reason = f"{list(shape)} does not fit the input {name!r}, which is {said}"
        raise UsageError("--shape", reason, "give positive sizes where the file has -1, and its own elsewhere")


def float_weights(model: bytes) -> Iterator[tuple[str, Array]]:
    """Yield the float constants with their names."""
    tree = tree_of(model)
    for graph in tree.subgraphs:
        for tensor in graph.tensors:
            data = tree.buffers[tensor.buffer].data
            if tensor.type in FLOATS and data is not None and len(data):
                yield tensor.name.decode(), np.frombuffer(bytes(data), FLOATS[tensor.type])
