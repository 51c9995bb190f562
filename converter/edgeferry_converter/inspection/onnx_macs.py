"""Multiply-accumulates of ONNX operators, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgeferry_converter.inspection.graph import Graph, Node

Shape = tuple[int, ...]

WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3}
"""Where the second operand stands, if it is not input 1."""


def macs(graph: Graph, node: Node) -> int | None:
    """Count one node: what multiplies by weights or a matrix; the rest is 0. None where a shape is unknown."""
    count = COUNTS.get(node.operator.rpartition(".")[2])
    if count is None:
        return 0
    second = WEIGHT.get(node.operator, 1)
    if len(node.inputs) <= second or not node.outputs:
        return None
    data, weight, output = (graph.dims(key) for key in (node.inputs[0], node.inputs[second], node.outputs[0]))
    if not data or not weight or output is None:
        return None
    rest = [graph.dims(key) or () for key in node.inputs[second + 1 :]]
    return count((data, weight, output), rest, node)


Shapes = tuple[Shape, Shape, Shape]


def _convolution(shapes: Shapes, rest: list[Shape], node: Node) -> int:
    """Each output element sums over one filter: [out, in / groups, *kernel]."""
    return math.prod(shapes[2]) * math.prod(shapes[1][1:])


def _transposed(shapes: Shapes, rest: list[Shape], node: Node) -> int:
    """Each input element is spread over a filter: [in, out / groups, *kernel]."""
    return math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _matrix(shapes: Shapes, rest: list[Shape], node: Node) -> int:
    return math.prod(shapes[2]) * shapes[0][-1]


def _gemm(shapes: Shapes, rest: list[Shape], node: Node) -> int:
    return math.prod(shapes[2]) * shapes[0][0 if node.options.get("transA") else -1]


def _recurrent(shapes: Shapes, rest: list[Shape], node: Node) -> int:
    """Input weights [directions, gates, in] and recurrent ones, once for each element of time and batch."""
    recurrent = math.prod(rest[0]) if rest else 0
    return math.prod(shapes[0][:-1]) * (math.prod(shapes[1]) + recurrent)


COUNTS: Mapping[str, Callable[[Shapes, list[Shape], Node], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "FusedConv"), _convolution),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul"), _matrix),
    **dict.fromkeys(("Gemm", "QGemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
}
