"""Which nodes of a TFLite graph a delegate took, read from the interpreter that holds it.

An interpreter keeps the file's nodes and appends one node ``DELEGATE`` for each partition that a delegate took. Such a
node names the tensors that enter and leave it, so what it replaced is what lies between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from edgeferry_runtime.engines.execution import LeftBehind


class Share(NamedTuple):
    """What a delegate took of a graph's nodes; the attributes are those of `Execution`."""

    nodes_total: int
    nodes_delegated: int
    partitions: int
    left_behind: tuple[LeftBehind, ...]


def operators(interpreter: Any) -> tuple[str, ...]:
    """Name the operator of each node of the main graph."""
    return tuple(interpreter._interpreter.NodeName(i) for i in range(count_nodes(interpreter)))


def count_nodes(interpreter: Any) -> int:
    """Count the nodes of the main graph, those of delegates among them."""
    return int(interpreter._interpreter.NumNodes())


def delegated_share(interpreter: Any, file_nodes: int, partitions: Sequence[int]) -> Share:
    """Count what a delegate took of the main graph.

    A node whose outputs nobody reads leaves no trace; it counts as left behind.

    Args:
        interpreter: It has allocated its tensors.
        file_nodes: How many nodes the file has.
        partitions: The indices of the delegate's nodes.
    """
    wrapper = interpreter._interpreter
    sources = [[int(t) for t in wrapper.NodeInputs(i)] for i in range(file_nodes)]
    producers = {int(tensor): node for node in range(file_nodes) for tensor in wrapper.NodeOutputs(node)}
    taken: set[int] = set()
    for index in partitions:
        inside = _between(wrapper.NodeInputs(index), wrapper.NodeOutputs(index), sources, producers)
        taken |= inside
    behind = Counter(wrapper.NodeName(i) for i in range(file_nodes) if i not in taken)
    ranked = tuple(LeftBehind(name, count) for name, count in behind.most_common())
    return Share(file_nodes, len(taken), len(partitions), ranked)


def _between(
    inputs: Iterable[int], outputs: Iterable[int], sources: Sequence[Sequence[int]], producers: dict[int, int]
) -> set[int]:
    """Return the nodes between two sets of tensors."""
    seen, waiting, found = {int(t) for t in inputs}, [int(t) for t in outputs], set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in producers:
            continue
        seen.add(tensor)
        found.add(producers[tensor])
        waiting.extend(sources[producers[tensor]])
    return found
