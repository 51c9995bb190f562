"""One source, the same bytes: what tf2onnx numbers anew in every process is numbered by first use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

NUMBERED = re.compile(r"(?:__\d+)+(?=(?::\d+)?$)")
"""How tf2onnx ends the names that it makes: ``Reshape__17``, or ``Reshape__17:0`` for a value."""


def canonical(model: Any) -> Any:
    """Renumber the inner names of a graph from tf2onnx, and sort its weights by first use.

    Args:
        model: A ``ModelProto``; it is changed. Its inputs and outputs keep their names.

    Returns:
        The model.
    """
    from edgeferry_converter.sources import onnx_graph

    graphs = list(_graphs(model.graph))
    borders = {value.name for graph in graphs for value in (*graph.input, *graph.output)}
    uses = [name for graph in graphs for node in graph.node for name in (*node.input, *node.output) if name]
    weights = {tensor.name for graph in graphs for tensor in graph.initializer}
    onnx_graph.substitute(model.graph, _renumbered(uses, borders, weights))
    nodes = [node for graph in graphs for node in graph.node]
    names = _renumbered((node.name for node in nodes), set(), set())
    for node in nodes:
        node.name = names.get(node.name, node.name)
    for graph in graphs:
        _sort_weights(graph)
    return model


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(body)


def _renumbered(names: Iterable[str], taken: set[str], weights: set[str]) -> dict[str, str]:
    """Give each numbered name the next free number of its stem; names in `taken` stay, and are given to nobody.

    Equal weights of several names are one weight, of any of these names: numbered weights share one stem.
    """
    counts: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for name in names:
        number = NUMBERED.search(name)
        if number is None or name in renamed or name in taken:
            continue
        stem, end = ("const", "") if name in weights else (name[: number.start()], name[number.end() :])
        while (new := f"{stem}__{counts[stem + end]}{end}") in taken:
            counts[stem + end] += 1
        counts[stem + end] += 1
        renamed[name] = new
    return renamed


def _sort_weights(graph: Any) -> None:
    """Order weights by first use, in the bodies of inner graphs too; tf2onnx orders them by a set."""
    uses = [name for inner in _graphs(graph) for node in inner.node for name in node.input]
    first = {name: place for place, name in reversed(list(enumerate(uses)))}
    weights = sorted(graph.initializer, key=lambda tensor: (first.get(tensor.name, len(uses)), tensor.name))
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
