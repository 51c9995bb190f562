"""Multiply-accumulates of TensorFlow's operators, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgeferry_converter.inspection.graph import Graph, Node

Shape = tuple[int, ...]


def macs(graph: Graph, node: Node) -> int | None:
    """Count one node: what multiplies by weights or a matrix; the rest is 0. None where a shape is unknown."""
    count = COUNTS.get(node.operator)
    if count is None:
        return None if node.operator in UNKNOWN else 0
    inputs = [graph.dims(key) for key in node.inputs]
    output = graph.dims(node.outputs[0]) if node.outputs else None
    if output is None or len(inputs) < 2 or not all(inputs[:2]):
        return None
    return count([shape or () for shape in inputs], output, node)


def _convolution(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each output element sums over one filter: [*kernel, in / groups, out]."""
    return math.prod(output) * math.prod(inputs[1][:-1])


def _depthwise(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each output element sums over one plane: [height, width, in, multiplier]."""
    return math.prod(output) * math.prod(inputs[1][:2])


def _transposed(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each element of the third input is spread over a filter: [*kernel, out, in]."""
    data = inputs[2] if len(inputs) > 2 else ()
    return math.prod(data) * math.prod(inputs[1][:-1])


def _matrix(inputs: list[Shape], output: Shape, node: Node) -> int:
    turned = node.options.get("transpose_a") or node.options.get("adj_x")
    return math.prod(output) * inputs[0][-2 if turned and len(inputs[0]) > 1 else -1]


COUNTS: Mapping[str, Callable[[list[Shape], Shape, Node], int]] = {
    **dict.fromkeys(("Conv2D", "Conv3D", "_FusedConv2D"), _convolution),
    "DepthwiseConv2dNative": _depthwise,
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), _transposed),
    **dict.fromkeys(("MatMul", "_FusedMatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matrix),
}
UNKNOWN = frozenset({"Einsum", "XlaDotV2", "XlaConvV2", "XlaCallModule", "CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"})
"""What multiplies matrices, but its shapes alone do not tell how many."""
