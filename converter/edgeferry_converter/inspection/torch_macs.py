"""Multiply-accumulates of PyTorch's operators, from shapes alone; exported programs and TorchScript share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgeferry_converter.inspection.graph import Graph, Node

Shape = tuple[int, ...]

NAMESPACES = frozenset({"aten", "prim", "prims", "quantized", "quantized_decomposed", "torchvision", "higher_order"})
"""Whose operators are PyTorch's own."""

Sides = tuple[list[Shape], Shape]
"""Shapes of the inputs, and of the first output."""


def macs(graph: Graph, node: Node) -> int | None:
    """Count one node: what multiplies by weights or a matrix; the rest is 0. None where a shape is unknown."""
    name = node.operator.removeprefix("aten.")
    if name in RECURRENT:
        return _recurrent(graph, node)
    count = COUNTS.get(name)
    if count is None:
        return None if name in UNKNOWN else 0
    inputs = [graph.dims(key) for key in node.inputs]
    output = graph.dims(node.outputs[0]) if node.outputs else None
    if output is None or len(inputs) < 2 or not all(inputs[: 3 if name in THREE else 2]):
        return None
    return count(([shape or () for shape in inputs], output), node)


def is_own(operator: str) -> bool:
    """Tell whether an operator is PyTorch's own."""
    return operator.partition(".")[0] in NAMESPACES or "." not in operator


def _convolution(sides: Sides, node: Node) -> int:
    """Each output element sums over one filter: [out, in / groups, *kernel]."""
    inputs, output = sides
    if node.options.get("transposed"):
        return _transposed(sides, node)
    return math.prod(output) * math.prod(inputs[1][1:])


def _transposed(sides: Sides, node: Node) -> int:
    """Each input element is spread over a filter: [in, out / groups, *kernel]."""
    inputs, _ = sides
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _matrix(sides: Sides, node: Node) -> int:
    inputs, output = sides
    return math.prod(output) * inputs[0][-1]


def _added(sides: Sides, node: Node) -> int:
    """The first input is added to the product of the next two."""
    inputs, output = sides
    return math.prod(output) * inputs[1][-1]


def _attention(sides: Sides, node: Node) -> int:
    """Queries [..., L, E] times keys [..., S, E], and that times values [..., S, V]."""
    (query, keys, values, *_), _ = sides
    return math.prod(query[:-1]) * keys[-2] * (query[-1] + values[-1])


def _recurrent(graph: Graph, node: Node) -> int | None:
    """Every matrix is applied once for each element of batch and time."""
    data = graph.dims(node.inputs[0]) if node.inputs else None
    weights = [graph.dims(key) or () for key in node.inputs if key in graph.fixed]
    return math.prod(data[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2) if data else None


RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"})
THREE = frozenset({"addmm", "baddbmm", "scaled_dot_product_attention"})
"""Operators that need the shapes of three inputs."""

COUNTS: Mapping[str, Callable[[Sides, Node], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("linear", "matmul", "mm", "bmm", "mv"), _matrix),
    **dict.fromkeys(("addmm", "baddbmm"), _added),
    "scaled_dot_product_attention": _attention,
}
UNKNOWN = frozenset({"einsum", "bilinear", "tensordot", "_transformer_encoder_layer_fwd", "stft"})
"""What multiplies matrices, but its shapes alone do not tell how many."""
