"""From a graph to layers: whose weights are whose, in which precision a layer computes, which transposes are stray."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeferry_converter.inspection.graph import CASTS, Graph, Node, Value
from edgeferry_converter.inspection.report import Layer

LAYOUTS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3))
"""Permutations between channels first and channels last."""

ONNX_CASTS = {f"{domain}{kind}Linear" for domain in ("", "com.microsoft.") for kind in ("Quantize", "Dequantize")}
SCALES = {"com.microsoft.MatMulNBits": (2, 3, 4)}
"""Where an operator takes scales, zero points and an order of groups."""

INT8_ACTIVATIONS = 4
"""The ``accuracy_level`` of ONNX Runtime's MatMulNBits that quantizes the activations."""

Macs = Callable[[Graph, Node], "int | None"]
"""Counts the multiply-accumulates of one node; None where a shape is unknown."""


def layers(graph: Graph, macs: Macs, seen: set[str]) -> Iterator[Layer]:
    """Yield a layer for each node that computes; what only prepares constants belongs to the layer that uses them.

    Args:
        graph: The graph.
        macs: The format's own count.
        seen: The buffers that belong to earlier layers; those of this graph are added.
    """
    for node in graph.nodes:
        if node.outputs and all(key in graph.fixed for key in node.outputs if key):
            continue
        weights = _weights(graph, node)
        own = [weight for weight in weights if weight.buffer not in seen]
        seen.update(weight.buffer for weight in own)
        yield Layer(
            name=node.name,
            operator=node.operator,
            shape=_shape(graph, node),
            activation=_activation(graph, node),
            weight=max(weights, key=lambda w: w.elements or 0).dtype if weights else "",
            parameters=sum(weight.elements or 0 for weight in own),
            weight_bytes=sum(weight.stored or 0 for weight in own),
            macs=macs(graph, node),
        )


def stray_transposes(graph: Graph) -> tuple[str, ...]:
    """Name the nodes that change nothing but the layout between channels first and channels last."""
    return tuple(n.name for n in graph.nodes if n.options.get("perm") in LAYOUTS and n.outputs[0] not in graph.fixed)


def _weights(graph: Graph, node: Node) -> list[Value]:
    """Return the constants that a node computes with; shapes, indices, scales and zero points are none."""
    inputs = [key for i, key in enumerate(node.inputs) if key and i not in SCALES.get(node.operator, ())]
    inputs = inputs[:1] if node.operator in CASTS else inputs
    keys = dict.fromkeys(key for name in inputs for key in graph.constants(name))
    return [graph.values[key] for key in keys if _is_weight(graph.values[key])]


def _is_weight(value: Value) -> bool:
    if value.dtype.startswith(("float", "bfloat", "complex")):
        return True
    single = (value.elements or 0) <= 1 and value.quantization is None
    narrow = value.dtype in ("int8", "uint8", "int4", "uint4", "int16", "int2")
    return not single and (narrow or value.quantization is not None)


def _activation(graph: Graph, node: Node) -> str:
    """Return what the first input that changes from run to run is computed with.

    That is its dtype, or the one that it is stored in before a cast. Where the node has constants that no cast gives,
    it computes with what the cast gives; and an operator may quantize its input itself.
    """
    flowing = [key for key in node.inputs if key and key not in graph.fixed] or list(node.outputs)
    if not flowing:
        return ""
    key = flowing[0]
    if node.options.get("accuracy_level") == INT8_ACTIVATIONS:
        return "int8"
    maker = graph.makers.get(key)
    if maker and maker.operator in ONNX_CASTS and node.operator not in ONNX_CASTS:
        if any(_is_plain(graph, other) for other in node.inputs):
            return "float32"
        key = maker.inputs[0]
    return graph.values[key].dtype if key in graph.values else ""


def _is_plain(graph: Graph, key: str) -> bool:
    """Tell whether an input is several float constants, or a cast of some that is not from integers."""
    maker = graph.makers.get(key)
    if key not in graph.fixed or (maker and maker.operator in ONNX_CASTS):
        return False
    constants = [graph.values[constant] for constant in graph.constants(key)]
    return any(value.dtype.startswith("float") and (value.elements or 0) > 1 for value in constants)


def _shape(graph: Graph, node: Node) -> tuple[int, ...] | None:
    value = graph.values.get(node.outputs[0]) if node.outputs else None
    return value.shape if value else None
