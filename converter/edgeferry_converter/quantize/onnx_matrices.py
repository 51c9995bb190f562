"""Matrix multiplications with int4 weights, in float32 or with activations that are quantized to int8 at run time.

``MatMulNBits`` is ONNX Runtime's own operator; how it computes stands in its ``accuracy_level``. A DequantizeLinear
before a MatMul becomes the same operator when ONNX Runtime loads a file, but then it always quantizes activations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.quantize.onnx_prepare import drop_unused_weights, graphs
from edgeferry_converter.quantize.onnx_weights import DOMAIN, SMALLEST, Layout, declare, integers
from edgeferry_runtime.tensors import Array

ACCURACY = {"weight-only-int4": 1, "dynamic-int4": 4}
"""The ``accuracy_level`` of a precision: 1 is float32; with 4 each block of activations is quantized to int8."""

SHARED = 32
"""The operator's block where one scale serves a whole channel."""


def is_matrix(node: Any, weights: Mapping[str, Any]) -> bool:
    """Tell whether a node multiplies activations with a matrix of weights, and does nothing more than add a bias."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights or len(weights[node.input[1]].dims) != 2:
        return False
    options = {a.name: a.f or a.i for a in node.attribute}
    return options.get("alpha", 1) == options.get("beta", 1) == 1 and not options.get("transA")


def is_large(tensor: Any) -> bool:
    """Tell whether narrower weights save more bytes than their scales cost."""
    return int(np.prod(tensor.dims)) >= SMALLEST


def split_gemms(model: Any, names: Collection[str]) -> list[str]:
    """Make a MatMul and an Add of each named Gemm that is nothing else, and return the names as they are then."""
    renamed = {name: name for name in names}
    for graph in graphs(model.graph):
        weights = {tensor.name: tensor for tensor in graph.initializer}
        nodes: list[Any] = []
        for node in graph.node:
            if node.op_type == "Gemm" and node.name in renamed and is_matrix(node, weights):
                renamed[node.name] = f"{node.name}_MatMul"
                nodes += _split(graph, node, weights)
            else:
                nodes.append(node)
        _replace_nodes(graph, nodes)
    return sorted(renamed.values())


def _split(graph: Any, gemm: Any, weights: dict[str, Any]) -> Iterator[Any]:
    from onnx import helper, numpy_helper

    weight, product = gemm.input[1], gemm.output[0]
    if any(a.name == "transB" and a.i for a in gemm.attribute):
        weight = f"{weight}_transposed"
        if weight not in weights:
            turned = np.ascontiguousarray(onnx_file.values(weights[gemm.input[1]]).T)
            weights[weight] = numpy_helper.from_array(turned, weight)
            graph.initializer.append(weights[weight])
    if len(gemm.input) > 2:
        product = f"{product}_MatMul"
        known = [value for value in graph.value_info if value.name == gemm.output[0]]
        graph.value_info.extend(known)
        for value in graph.value_info[len(graph.value_info) - len(known) :]:
            value.name = product
    yield helper.make_node("MatMul", [gemm.input[0], weight], [product], f"{gemm.name}_MatMul")
    if len(gemm.input) > 2:
        yield helper.make_node("Add", [product, gemm.input[2]], gemm.output, f"{gemm.name}_Add")


def multiply_in_int4(model: Any, names: Collection[str], precision: str, block_size: int) -> list[str]:
    """Give the matrices of the named nodes int4 weights, in place; Gemms are split before.

    Args:
        model: A float ``ModelProto``.
        names: Of the nodes.
        precision: ``weight-only-int4`` or ``dynamic-int4``.
        block_size: Weights that share a scale; 0 is one scale per output channel.

    Returns:
        The names of those that are no MatMul.
    """
    done = set()
    for graph in graphs(model.graph):
        weights = {tensor.name: tensor for tensor in graph.initializer}
        nodes = list(graph.node)
        for i, node in enumerate(nodes):
            if node.name in names and node.op_type == "MatMul":
                done.add(node.name)
                nodes[i] = _multiply(graph, node, weights[node.input[1]], block_size, ACCURACY[precision])
        _replace_nodes(graph, nodes)
    if done:
        declare(model)
    return sorted(set(names) - done)


def quantize_dynamic(model: Any, names: Collection[str]) -> Any:
    """Return a model whose named nodes have int8 weights and quantize their activations when they run.

    ONNX Runtime's own function splits every Gemm of a model, those of other precisions too. Told that it works
    statically, its quantizer does not.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    _take_weights(model, names)
    options = {"MatMulConstBOnly": True}
    types = (QuantType.QInt8, QuantType.QUInt8)
    how = (True, False, QuantizationMode.IntegerOps, True, *types, None)
    quantizer = ONNXQuantizer(model, *how, sorted(names), [], sorted(IntegerOpsRegistry), options)
    quantizer.static = False
    before = _names(model)
    made = quantizer.quantize_model()
    _set_apart(made.graph, _names(made) - before - {""})
    return made


def _take_weights(model: Any, names: Collection[str]) -> None:
    """Take the weights of the named nodes into the graph: the quantizer reads no other file."""
    read = {name for node in model.graph.node if node.name in names for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in read and onnx_file.is_outside(tensor):
            onnx_file.gather(tensor)


def _names(model: Any) -> set[str]:
    """Return what the outermost graph calls its nodes and tensors."""
    graph = model.graph
    outputs = {name for node in graph.node for name in (node.name, *node.output)}
    return outputs | {v.name for v in (*graph.initializer, *graph.input)}


def _set_apart(graph: Any, names: Collection[str]) -> None:
    """Rename what the quantizer added: a static pass would give other tensors the same names."""

    def renamed(name: str) -> str:
        return f"{name}_dynamic" if name in names else name

    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        node.name = renamed(node.name)
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)


def _multiply(graph: Any, node: Any, weight: Any, block_size: int, accuracy: int) -> Any:
    """Add a matrix's packed integers and scales to a graph, and return the node that multiplies with them."""
    from onnx import helper, numpy_helper

    values = onnx_file.values(weight)
    depth, width = values.shape
    stored, scale = integers(values, Layout(4, 1, block_size))
    size = block_size or SHARED
    blocks = -(-depth // size)
    scales = np.broadcast_to(scale, (blocks, width)) if not block_size else scale
    name = f"{node.name}_int4"
    graph.initializer.append(numpy_helper.from_array(_pack(stored, blocks, size), name))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scales.T), f"{name}_scale"))
    sizes = {"K": depth, "N": width, "bits": 4, "block_size": size, "accuracy_level": accuracy}
    names = [node.input[0], name, f"{name}_scale"]
    return helper.make_node("MatMulNBits", names, node.output, node.name, domain=DOMAIN, **sizes)


def _pack(stored: Array, blocks: int, size: int) -> Array:
    """Return [channels, blocks, size / 2] of bytes: two values around 8 in each, the first one in its low half."""
    depth, width = stored.shape
    wide = np.full((blocks * size, width), 8, np.uint8)
    wide[:depth] = stored + 8
    parts = wide.T.reshape(width, blocks, size)
    return np.ascontiguousarray(parts[..., 0::2] | parts[..., 1::2] << 4)


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)
