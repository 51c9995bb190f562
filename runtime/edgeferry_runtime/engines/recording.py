"""What an engine's own profiler told of some runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Timed:
    """One execution of one operator.

    Attributes:
        key: What tells it from every other operator of the graph.
        name: Of the node; what the engine calls it where it made it itself.
        type: The operator, as the engine calls what it executed.
        provider: What executed it, such as ``CPUExecutionProvider`` or ``XNNPACK``.
        us: Microseconds, without those of the operators inside a loop or branch.
    """

    key: tuple[object, ...]
    name: str
    type: str
    provider: str
    us: float


@dataclass(frozen=True)
class Recording:
    """Runs under a profiler, beside runs without it.

    Attributes:
        method: Where the figures are from.
        plain_ms: Milliseconds of each run without the profiler.
        profiled_ms: Of each run with it.
        runs: The operators of each of those, in the order of execution.
        graph: How many nodes of each operator the file has, in its main graph.
        notes: What limits the figures.
    """

    method: str
    plain_ms: tuple[float, ...]
    profiled_ms: tuple[float, ...]
    runs: tuple[tuple[Timed, ...], ...]
    graph: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
