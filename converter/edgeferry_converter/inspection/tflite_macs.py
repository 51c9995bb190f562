"""Multiply-accumulates of TFLite's operators, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgeferry_converter.inspection.graph import Graph, Node

Shape = tuple[int, ...]


def macs(graph: Graph, node: Node) -> int | None:
    """Count one node: what multiplies by weights or a matrix; the rest is 0. None where a shape is unknown."""
    count = COUNTS.get(node.operator)
    if count is None:
        return 0
    inputs = [graph.dims(key) or () for key in node.inputs]
    output = graph.dims(node.outputs[0]) if node.outputs else None
    unknown = output is None or (node.operator not in LSTMS and not all(inputs[:2]))
    return None if unknown or output is None or len(inputs) < 2 else count(inputs, output, node)


def _convolution(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each output element sums over one filter: [out, height, width, in]."""
    return math.prod(output) * math.prod(inputs[1][1:])


def _depthwise(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each output element sums over one plane of the filter: [1, height, width, out]."""
    return math.prod(output) * math.prod(inputs[1][1:-1])


def _volume(inputs: list[Shape], output: Shape, node: Node) -> int:
    """The filter is [depth, height, width, in, out]."""
    return math.prod(output) * math.prod(inputs[1][:-1])


def _transposed(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Each element of the third input is spread over a filter: [out, height, width, in]."""
    data = inputs[2] if len(inputs) > 2 else ()
    return math.prod(data) * math.prod(inputs[1][:-1])


def _dense(inputs: list[Shape], output: Shape, node: Node) -> int:
    """The weights are [units, in]."""
    return math.prod(output) * inputs[1][-1]


def _matrix(inputs: list[Shape], output: Shape, node: Node) -> int:
    return math.prod(output) * inputs[0][-2 if node.options.get("adjoint") and len(inputs[0]) > 1 else -1]


def _recurrent(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Every matrix is applied once for each element of batch and time."""
    return math.prod(inputs[0][:-1]) * sum(math.prod(shape) for shape in inputs[1:18] if len(shape) == 2)


def _svdf(inputs: list[Shape], output: Shape, node: Node) -> int:
    """Feature weights [filters, in], time weights [filters, memory]."""
    return inputs[0][0] * sum(math.prod(shape) for shape in inputs[1:3])


LSTMS = frozenset({"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"})

COUNTS: Mapping[str, Callable[[list[Shape], Shape, Node], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "CONV_3D": _volume,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _matrix,
    "SVDF": _svdf,
    **dict.fromkeys(sorted(LSTMS), _recurrent),
}
