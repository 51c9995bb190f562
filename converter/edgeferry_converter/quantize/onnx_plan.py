"""Which node of an ONNX graph gets which precision, as data; each pass then works on the nodes that are its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from edgeferry_converter.overrides import Layer, Override, resolve
from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.onnx_matrices import is_large, is_matrix
from edgeferry_converter.quantize.onnx_prepare import graphs
from edgeferry_converter.quantize.onnx_weights import layout
from edgeferry_converter.quantize.support import INT8_BELOW, STATIC
from edgeferry_runtime.errors import UsageError

DYNAMIC = {"Conv": 1, "MatMul": 1, "Gemm": 1, "LSTM": 1, "Gather": 0}
"""What computes with activations quantized at run time, and which of its inputs the weights are."""

MATRICES = ("MatMul", "Gemm")

JOINED = ("Relu", "Clip")
"""The quantizer joins them with the layer before."""


class _Node(NamedTuple):
    """A node, whether it lies in the outermost graph, and the float weights in sight."""

    node: Any
    outermost: bool
    weights: Mapping[str, Any]

    def can(self, precision: str) -> bool:
        """Tell whether ONNX Runtime has the operator in a precision."""
        return precision == "none" or ABILITIES[precision](self)

    def weight(self, position: int = 1) -> Any:
        """Return the float weights that an input is; None where it is computed."""
        return self.weights.get(self.node.input[position]) if len(self.node.input) > position else None


def _halved(node: _Node) -> bool:
    return any(name in node.weights and is_large(node.weights[name]) for name in node.node.input)


def _stored(node: _Node) -> bool:
    return node.weight() is not None and layout(node.node, node.weight()) is not None


def _multiplied(node: _Node) -> bool:
    return is_matrix(node.node, node.weights) and is_large(node.weight())


def _stored_in_int4(node: _Node) -> bool:
    return _multiplied(node) if node.node.op_type in MATRICES else _stored(node)


def _dynamic(node: _Node) -> bool:
    kind = node.node.op_type
    known = kind in DYNAMIC and node.weight(DYNAMIC[kind]) is not None
    return node.outermost and known and (kind != "Gemm" or is_matrix(node.node, node.weights))


def _static(node: _Node) -> bool:
    return node.outermost and node.node.op_type in static_kinds()


ABILITIES: Mapping[str, Callable[[_Node], bool]] = {
    "fp16": _halved,
    "int16x8": _static,
    "weight-only": _stored,
    "dynamic": _dynamic,
    "int8": _static,
    "weight-only-int4": _stored_in_int4,
    "dynamic-int4": _multiplied,
}


def assign(job: Job, model: Any) -> dict[str, str]:
    """Give each node of a prepared float model its precision.

    Where a precision has int4 for matrices only, the other nodes get the int8 below it; an override says it exactly.

    Returns:
        The precision by the node's name.

    Raises:
        UsageError: If an override matches no layer, or none that could have its precision.
    """
    nodes = _nodes(model)
    found = resolve(job.overrides, [Layer((n.node.name, *n.node.output), n.node.op_type) for n in nodes])
    _refuse_vain(found, nodes)
    plan = {}
    for i, node in enumerate(nodes):
        override = found.get(i)
        own = override is not None and node.can(override.precision)
        plan[node.node.name] = override.precision if override and own else _usual(job.precision, node)
    asked = {nodes[i].node.name for i in found}
    return plan | _joined(model.graph, plan, asked)


def of(plan: Mapping[str, str], *precisions: str) -> list[str]:
    """Return the names of the nodes that have one of some precisions."""
    return sorted(name for name, precision in plan.items() if precision in precisions)


def static_kinds() -> list[str]:
    """Return the operators that have a form with quantized activations."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def _nodes(model: Any) -> list[_Node]:
    weights = {t.name: t for graph in graphs(model.graph) for t in graph.initializer if t.data_type == 1}
    return [_Node(node, graph is model.graph, weights) for graph in graphs(model.graph) for node in graph.node]


def _usual(precision: str, node: _Node) -> str:
    matrix = node.node.op_type in MATRICES and node.can(precision)
    return precision if matrix else INT8_BELOW.get(precision, precision)


def _refuse_vain(found: Mapping[int, Override], nodes: Sequence[_Node]) -> None:
    """Refuse an override where none of the nodes that it holds for could have its precision."""
    for override in dict.fromkeys(found.values()):
        held = [nodes[i] for i, other in found.items() if other == override]
        if not any(node.can(override.precision) for node in held):
            kinds = ", ".join(sorted({node.node.op_type for node in held}))
            inner = "" if all(node.outermost for node in held) else " inside If or Loop"
            reason = f"{kinds}{inner} cannot be {override.precision} in ONNX"
            raise UsageError(override, reason, "use none, or another precision")


def _joined(graph: Any, plan: Mapping[str, str], asked: Collection[str]) -> dict[str, str]:
    """Give an activation behind a layer of static precision the layer's own, where it alone reads the layer."""
    readers = Counter(name for node in graph.node for name in node.input)
    makers = {name: node.name for node in graph.node for name in node.output}
    return {
        node.name: plan[makers[node.input[0]]]
        for node in graph.node
        if node.op_type in JOINED and node.name not in asked and readers[node.input[0]] == 1
        if plan.get(makers.get(node.input[0], "")) in STATIC
    }
