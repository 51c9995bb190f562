"""Branches of ONNX graphs: an ``If`` whose condition is known is replaced by what it would run.

The condition may hang on constants, and on sizes that are known: ``Shape`` and ``Size`` of a tensor whose shape is
inferred. Nothing is changed that depends on data. Quantizers do not look into branches, and so gain what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.sources.onnx_graph import substitute
from edgeferry_runtime.tensors import Array

LARGEST = 1024
"""Elements of the largest constant that a condition is computed from."""

IMPURE = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})
"""What is not computed ahead: bodies are inlined first, and chance is none of ours."""


def simplify(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Replace the branches that are decided, and say so; a model too large for one file stays as it is.

    Returns:
        The model, and what is to be said of it.
    """
    if not any(node.op_type == "If" for node in model.graph.node) or onnx_file.size(model) > onnx_file.LARGEST:
        return model, ()
    model, done = inline(model)
    notes = [f"branches that are decided are replaced by what they run: {', '.join(done)}"] if done else []
    return model, (*notes, *advice(model))


def advice(model: Any) -> tuple[str, ...]:
    """Say which branches remain, which no quantizer looks into, and what decides them."""
    return tuple(
        f"the branch {name!r} stays float: {_way_out(inputs, model)}" for name, inputs in undecided(model).items()
    )


def inline(model: Any) -> tuple[Any, list[str]]:
    """Replace each ``If`` whose condition is known, those that come to light by it too.

    Returns:
        The model, which is the same object where nothing was replaced, and the names of what was.
    """
    import onnx

    done: list[str] = []
    changed = type(model)()
    changed.CopyFrom(model)
    while any(node.op_type == "If" for node in changed.graph.node):
        known = _Known(onnx.shape_inference.infer_shapes(changed, data_prop=True))
        _hold(changed.graph, known)
        decided = [(i, known.value(n.input[0])) for i, n in enumerate(changed.graph.node) if n.op_type == "If"]
        chosen = {i: bool(value.item()) for i, value in decided if value is not None and value.size == 1}
        if not chosen:
            break
        done += [changed.graph.node[i].name or changed.graph.node[i].output[0] for i in chosen]
        _replace(changed.graph, chosen)
    _prune(changed.graph)
    return (changed, done) if done else (model, done)


def _way_out(inputs: list[str], model: Any) -> str:
    numbers = [v.name for v in model.graph.input if v.name in inputs and len(v.type.tensor_type.shape.dim) == 0]
    if numbers:
        return f"it is decided by {' and '.join(numbers)}, so hold it: --constant {numbers[0]}=VALUE"
    if inputs:
        return f"it may be decided by a size of {' or '.join(inputs)}, so give it: --shape {inputs[0]}=SIZES"
    return "nothing decides it before it runs"


def undecided(model: Any) -> dict[str, list[str]]:
    """Return the branches that remain: by name of the ``If``, the inputs of the graph that its condition hangs on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    inputs = [value.name for value in model.graph.input]
    return {
        node.name or node.output[0]: [name for name in inputs if name in _ancestors(node.input[0], makers)]
        for node in model.graph.node
        if node.op_type == "If"
    }


def _ancestors(name: str, makers: Mapping[str, Any]) -> set[str]:
    pending, seen = [name], set()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += makers[name].input if name in makers else ()
    return seen


class _Known:
    """Computes the values in a graph that no run changes, as far as they are asked for."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self._opsets = list(model.opset_import)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._shapes = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._found: dict[str, Array | None] = {}

    def value(self, name: str) -> Array | None:
        """Return a value; None where it is not known."""
        pending = [name]
        while pending:  # no recursion: chains are as long as a model is deep
            at = pending[-1]
            node = self._makers.get(at)
            needs = [n for n in self._needs(node) if n not in self._found] if node and at not in self._found else []
            if needs and len(pending) <= len(self._makers):
                pending += needs[:1]
            else:
                self._found.setdefault(at, self._compute(at, node))
                pending.pop()
        return self._found[name]

    def _needs(self, node: Any) -> list[str]:
        if node.op_type in IMPURE or self._size(node) is not None:
            return []
        return [name for name in node.input if name]

    def _size(self, node: Any) -> Array | None:
        """Return what ``Shape`` or ``Size`` gives where the shape is known."""
        if node.op_type not in ("Shape", "Size") or node.input[0] not in self._shapes:
            return None
        tensor = self._shapes[node.input[0]]
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        limits = {a.name: a.i for a in node.attribute}
        dims = dims[limits.get("start", 0) : limits.get("end")]
        if not tensor.HasField("shape") or -1 in dims:
            return None
        return np.array(dims if node.op_type == "Shape" else np.prod(dims), np.int64)

    def _compute(self, name: str, node: Any) -> Array | None:
        from onnx import numpy_helper

        tensor = self._tensors.get(name)
        if tensor is not None:
            small = np.prod(tensor.dims) <= LARGEST and not tensor.external_data
            return np.asarray(numpy_helper.to_array(tensor)) if small else None
        if node is None or node.op_type in IMPURE or any(self._found.get(n) is None for n in node.input if n):
            return self._size(node) if node is not None else None
        size = self._size(node)
        return self._evaluate(node, name) if size is None else size

    def _evaluate(self, node: Any, name: str) -> Array | None:
        """Run one node on known values in onnx's own reference, which may not have it."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        feeds = {n: self._found[n] for n in node.input if n}
        sides = [[helper.make_empty_tensor_value_info(n) for n in names] for names in (feeds, node.output)]
        try:
            model = helper.make_model(helper.make_graph([node], "one", *sides), opset_imports=self._opsets)
            answer = ReferenceEvaluator(model).run([name], feeds)[0]
        except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError, AttributeError):
            return None
        small = isinstance(answer, np.ndarray | np.generic) and np.size(answer) <= LARGEST
        return np.asarray(answer) if small else None


def _hold(graph: Any, known: _Known) -> None:
    """Make constants of what is known, such as sizes to slice by, so that more shapes can be inferred."""
    from onnx import numpy_helper

    nodes = []
    for node in graph.node:
        value = known.value(node.output[0]) if len(node.output) == 1 and node.op_type != "Constant" else None
        if value is None:
            nodes.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), node.output[0]))
    del graph.node[:]
    graph.node.extend(nodes)


def _prune(graph: Any) -> None:
    """Remove the constants that only the branches not taken had use for."""
    used = _read(graph) | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _read(graph: Any) -> set[str]:
    """Return what the nodes of a graph read, those in their bodies too."""
    bodies = [body for node in graph.node for a in node.attribute for body in (a.g, *a.graphs)]
    inner = [_read(body) | {value.name for value in body.output} for body in bodies]
    return {name for node in graph.node for name in node.input}.union(*inner)


def _replace(graph: Any, chosen: Mapping[int, bool]) -> None:
    """Put the nodes of the chosen branches in place of their ``If``."""
    taken = _names(graph)
    nodes = []
    for i, node in enumerate(graph.node):
        if i in chosen:
            wanted = "then_branch" if chosen[i] else "else_branch"
            body = next(a.g for a in node.attribute if a.name == wanted)
            nodes += _opened(graph, body, node, taken)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _opened(graph: Any, body: Any, node: Any, taken: set[str]) -> list[Any]:
    """Move a branch's constants to the graph; return its nodes, and those that give its outputs their names outside."""
    from onnx import helper

    own = {name for inner in body.node for name in inner.output} | {tensor.name for tensor in body.initializer}
    front = node.name or node.output[0]
    substitute(body, {name: f"{front}/{name}" for name in own if name in taken})
    taken |= _names(body)
    graph.initializer.extend(body.initializer)
    same = zip(body.output, node.output, strict=True)
    return [*body.node, *(helper.make_node("Identity", [a.name], [b], f"{front}/{b}") for a, b in same if b)]


def _names(graph: Any) -> set[str]:
    found = {name for node in graph.node for name in node.output}
    return found | {value.name for value in (*graph.initializer, *graph.input)}
