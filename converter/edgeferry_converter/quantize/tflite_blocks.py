"""Matrices of int4 in blocks, with float computation, in a TFLite file.

TFLite's DEQUANTIZE knows a scale for each channel and none for blocks: given one, it answers with wrong values. So each
block is stored as a row of its own, with its own scale; a DEQUANTIZE makes floats of the rows, and a RESHAPE makes the
matrix of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from edgeferry_converter.quantize.onnx_weights import Layout, integers, pack_int4

FLOAT32, INT32, INT4 = 0, 2, 17
DEQUANTIZE, FULLY_CONNECTED, RESHAPE = 6, 9, 22
DEQUANTIZE_INT4 = 6
"""The version of DEQUANTIZE that takes int4."""


def store_in_blocks(model: Any, names: Collection[str], block_size: int) -> None:
    """Store the weights of some float layers as int4, in place.

    Args:
        model: As the object API has it.
        names: The outputs of FULLY_CONNECTED operators that are as deep as some blocks. Weights that are computed stay.
        block_size: Weights along the depth that share a scale.
    """
    for graph in model.subgraphs:
        made: dict[int, int] = {}
        for operator in list(graph.operators):
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            if code == FULLY_CONNECTED and graph.tensors[operator.outputs[0]].name.decode() in names:
                weight = operator.inputs[1]
                if model.buffers[graph.tensors[weight].buffer].data is None:
                    continue
                if weight not in made:
                    made[weight] = _store(model, graph, graph.tensors[weight], block_size)
                operator.inputs = [operator.inputs[0], made[weight], *operator.inputs[2:]]


def _store(model: Any, graph: Any, weight: Any, block_size: int) -> int:
    """Add a matrix's blocks and the operators that make the matrix of them; return its index."""
    from ai_edge_litert import schema_py_generated as schema

    channels, depth = weight.shape
    values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32).reshape(channels, depth)
    stored, scale = integers(values.T, Layout(4, 1, block_size))
    name, rows = weight.name.decode(), (channels * depth // block_size, block_size)
    blocks = _add(model, graph, (f"{name}_int4", rows, INT4), pack_int4(np.ascontiguousarray(stored.T)))
    found = graph.tensors[blocks].quantization = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = scale.T.ravel(), np.zeros(scale.size, np.int64)
    floats = _add(model, graph, (f"{name}_blocks", rows, FLOAT32))
    shape = _add(model, graph, (f"{name}_shape", (2,), INT32), np.array([channels, depth], np.int32).tobytes())
    matrix = _add(model, graph, (f"{name}_float", (channels, depth), FLOAT32))
    cast = schema.OperatorT()
    cast.opcodeIndex, cast.inputs, cast.outputs = _code(model, DEQUANTIZE, DEQUANTIZE_INT4), [blocks], [floats]
    fold = schema.OperatorT()
    fold.opcodeIndex, fold.inputs, fold.outputs = _code(model, RESHAPE, 1), [floats, shape], [matrix]
    fold.builtinOptionsType, fold.builtinOptions = schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT()
    fold.builtinOptions.newShape = [channels, depth]
    graph.operators[:0] = [cast, fold]
    return matrix


def _add(model: Any, graph: Any, told: tuple[str, tuple[int, ...], int], content: bytes | None = None) -> int:
    """Add a tensor of a name, shape and type, and return its index."""
    from ai_edge_litert import schema_py_generated as schema

    tensor, buffer = schema.TensorT(), schema.BufferT()
    tensor.name, tensor.shape, tensor.type = told[0].encode(), list(told[1]), told[2]
    if content is not None:
        buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _code(model: Any, kind: int, version: int) -> int:
    """Return the index of an operator's code, which is added where the model has none of that version."""
    from ai_edge_litert import schema_py_generated as schema

    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind and code.version >= version:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
