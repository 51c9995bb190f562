"""What a SavedModel tells about itself: the graph of its serving signature, without TensorFlow.

Functions are followed into, so that the report shows what is executed. Of a loop or a branch, each body counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from edgeferry_converter.inspection.graph import BITS, Graph, Node, Value
from edgeferry_converter.inspection.layers import layers, stray_transposes
from edgeferry_converter.inspection.report import Inspection, Layer
from edgeferry_converter.inspection.savedmodel_file import (
    Function,
    Message,
    SavedModel,
    SavedNode,
    Tensor,
    read_savedmodel,
)
from edgeferry_converter.inspection.tensorflow_macs import macs
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_runtime.errors import CorruptFileError
from edgeferry_runtime.protobuf import WireError
from edgeferry_runtime.tensors import TensorSpec

SERVING = "serving_default"
VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
SAME = frozenset({"ReadVariableOp", "Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot"})
"""Operators that hand on what they are given."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""Operators that call Python, which no file holds."""

LOOPS = frozenset({"While", "StatelessWhile"})
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
DEPTH, MOST_CALLS = 64, 100_000
"""How deep functions may call each other, and how often in all: no model comes near, a forged file could."""


def inspect_savedmodel(path: Path) -> Inspection:
    """Read one folder.

    Args:
        path: The folder that holds ``saved_model.pb``.

    Raises:
        CorruptFileError: If its graph is damaged.
    """
    try:
        saved = read_savedmodel((path / "saved_model.pb").read_bytes())
        key = SERVING if SERVING in saved.signatures else next(iter(saved.signatures), None)
        inputs, outputs = saved.signatures[key] if key is not None else ({}, {})
        graph = _Expansion(saved).graph(inputs, outputs)
    except (WireError, CycleError, RecursionError) as error:
        raise CorruptFileError(path, f"its saved_model.pb is truncated or damaged ({error})", AGAIN) from error
    found = tuple(layers(graph, macs, set()))
    names = {layer.operator for layer in found}
    return Inspection(
        path=path,
        format="savedmodel",
        size=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        inputs=_borders(inputs),
        outputs=_borders(outputs),
        layers=found,
        transposes=stray_transposes(graph),
        custom=tuple(sorted(name for name in names if ">" in name or name in PYTHON)),
        metadata={"TensorFlow": saved.version, "tags": ", ".join(saved.tags), "signature": key or "none"},
        notes=tuple(_notes(saved, key, found)),
    )


class _Expansion:
    """The nodes that some outputs need, with functions in place of their calls."""

    def __init__(self, saved: SavedModel) -> None:
        self._functions = saved.functions
        self._nodes = saved.nodes
        self._calls = 0
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def graph(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Graph:
        """Return the graph of one signature."""
        fed = [tensor.tensor.partition(":")[0] for tensor in inputs.values()]
        made = self._expand(self._nodes, [tensor.tensor for tensor in outputs.values()], {}, "", DEPTH)
        return Graph(self.values, tuple(self.nodes), tuple(key for key in fed if key in self.values), tuple(made))

    def _expand(
        self, nodes: Sequence[SavedNode], results: Sequence[str], given: Mapping[str, str], prefix: str, depth: int
    ) -> list[str]:
        """Add the nodes that make the results; return the keys of their values.

        Args:
            nodes: Of a graph or a function, in any order.
            results: References to what is wanted.
            given: By name of an argument, the key of its value.
            prefix: What tells these nodes from those of another call.
            depth: How many calls may still be inside.
        """
        by_name = {node.name: node for node in nodes}
        found = {name: [key] for name, key in given.items()}
        for name in _order(by_name, results):
            node = by_name[name]
            taken = [_resolve(found, reference) for reference in node.inputs]
            found[name] = self._add(node, taken, f"{prefix}{name}", depth)
        return [_resolve(found, reference) for reference in results]

    def _add(self, node: SavedNode, taken: list[str], key: str, depth: int) -> list[str]:
        """Add one node; return the keys of its outputs."""
        if node.operator in SAME and taken:
            return taken
        called = [self._functions[name] for name in node.functions() if name in self._functions]
        given = self._carried(node, taken, key) if node.operator in LOOPS else taken
        inner = [self._call(function, given, f"{key}/{i}/", depth) for i, function in enumerate(called)]
        if node.operator in CALLS and inner:
            return inner[0]
        self.values[key] = _value(node, key)
        if node.operator not in (*VARIABLES, "Const", "Placeholder"):
            self.nodes.append(Node(node.operator, key, tuple(taken), (key,), _options(node)))
        return [key]

    def _carried(self, loop: SavedNode, taken: list[str], key: str) -> list[str]:
        """Give each value that a loop changes a key of its own, since it is no constant even where it begins as one."""
        body = self._functions.get(loop.function("body"))
        if body is None:
            return taken
        same = [_origin(body, reference) for reference in body.outputs]
        carried = []
        for outer, name, back in zip(taken, body.inputs, same, strict=False):
            known, inner = self.values.get(outer), f"{key}/{name}"
            carried.append(outer if name == back or not known else inner)
            if known:
                self.values[inner] = Value(inner, known.shape, known.dtype)
        return carried

    def _call(self, function: Function, taken: list[str], prefix: str, depth: int) -> list[str]:
        self._calls += 1
        if not depth or self._calls > MOST_CALLS:
            raise WireError(f"functions call each other more than {DEPTH} deep, or {MOST_CALLS:,} times")
        arguments = taken[len(taken) - len(function.inputs) :]  # a branch takes all but the condition in front
        given = dict(zip(function.inputs, arguments, strict=False))
        return self._expand(function.nodes, function.outputs, given, prefix, depth - 1)


def _origin(function: Function, reference: str) -> str:
    """Return the name of what a result of a function is, before it was only handed on."""
    by_name = {node.name: node for node in function.nodes}
    name = _name(reference)
    while name in by_name and by_name[name].operator in SAME and by_name[name].inputs:
        name = _name(by_name.pop(name).inputs[0])
    return name


def _order(by_name: Mapping[str, SavedNode], results: Sequence[str]) -> Iterator[str]:
    """Yield the nodes that the results need, each behind what it needs itself."""
    pending, needs = [name for name in map(_name, results) if name in by_name], {}
    while pending:
        name = pending.pop()
        if name not in needs:
            needs[name] = [other for other in map(_name, by_name[name].inputs) if other in by_name]
            pending += needs[name]
    return iter(TopologicalSorter(needs).static_order())


def _name(reference: str) -> str:
    return reference.partition(":")[0]


def _resolve(found: Mapping[str, list[str]], reference: str) -> str:
    """Return the key of ``node``, ``node:1`` or ``node:output:1``; empty where nothing has that name.

    Only calls have a key for each output. All outputs of an operator share one, which has the first one's shape.
    """
    keys, last = found.get(_name(reference), [""]), reference.rpartition(":")[2]
    index = int(last) if last.isdigit() else 0
    return keys[index] if index < len(keys) else keys[0]


def _value(node: SavedNode, key: str) -> Value:
    shapes = node.shapes()
    if node.operator in (*VARIABLES, "Const"):
        shared, dtype = node.attributes.get("shared_name", Message({})).text(2) or key, node.dtype("dtype")
        shape = node.shape("shape") if node.operator in VARIABLES else node.shape("value")
        size = math.prod(shape) * BITS.get(dtype, 0) // 8 if shape is not None else 0
        return Value(shared, shape, dtype, stored=max(size, 0), buffer=shared)
    kind = node.dtype("DstT", "output_type", "out_type", "element_dtype", "dtype", "T", "Tout")
    return Value(key, shapes[0] if shapes else None, kind)


def _options(node: SavedNode) -> dict[str, object]:
    """Return what MACs are computed from."""
    keys = ("transpose_a", "transpose_b", "adj_x", "adj_y")
    return {key: bool(node.attributes[key].number(5)) for key in keys if key in node.attributes}


def _borders(tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, tensor.shape or (), tensor.dtype) for name, tensor in tensors.items())


def _notes(saved: SavedModel, key: str | None, found: Sequence[Layer]) -> Iterator[str]:
    others = [other for other in saved.signatures if other != key and not other.startswith("__")]
    if key is None:
        yield "it has no signature, so nothing tells what its inputs and outputs are"
    if others:
        yield f"shown is the signature {key!r}; it also has {', '.join(others)}"
    if any(layer.macs is None for layer in found):
        yield "the MACs of some layers cannot be told from the file alone: convert it and inspect the bundle"
    if any(layer.operator in LOOPS | BRANCHES for layer in found):
        yield "it has loops or branches; each body counts once"
