"""Which nodes of an ONNX graph ONNX Runtime gave to which execution provider.

It records that while it loads a model, after its basic optimizations, with the nodes of bodies of loops and branches,
unless a provider takes such a node as a whole. The nodes that a provider compiles into one are recorded singly.
Source: onnxruntime_session_options_config_keys.h, ``session.record_ep_graph_assignment_info``, which ONNX Runtime 1.24
has; nothing is known of releases that do not have it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from edgeferry_runtime.engines.execution import LeftBehind
from edgeferry_runtime.engines.onnx_providers import CPU, Provider

RECORD = "session.record_ep_graph_assignment_info"
NO_PACKING = "session.disable_prepacking"


class Placement(NamedTuple):
    """Where the nodes are, with the names and meanings of `Execution`."""

    nodes_total: int | None = None
    nodes_delegated: int | None = None
    partitions: int | None = None
    left_behind: tuple[LeftBehind, ...] = ()


def record(options: Any) -> Any:
    """Have a session record where its nodes are; a release that does not know how ignores it."""
    options.add_session_config_entry(RECORD, "1")
    return options


def count_nodes(session: Any) -> int | None:
    """Return how many nodes a session of the CPU alone has; None where it does not tell."""
    parts = _parts(session)
    return None if parts is None else sum(len(part.get_nodes()) for part in parts)


def placement(runtime: Any, path: Path, session: Any, provider: Provider) -> Placement:
    """Tell what a provider took.

    A provider that reorders dimensions is assigned its nodes twice, and only the second time is recorded. What is left
    to the CPU is recorded in full even then; all nodes are counted in a session of the CPU.

    Args:
        runtime: The module.
        path: The artifact.
        session: It records.
        provider: The one that was asked for.
    """
    parts = _parts(session)
    if parts is None:
        return Placement()
    own = [part for part in parts if part.ep_name == provider.name]
    rest = [node.op_type for part in parts if part.ep_name != provider.name for node in part.get_nodes()]
    behind = tuple(LeftBehind(operator, count) for operator, count in Counter(rest).most_common())
    if provider.moves_layout:
        total = _count_on_cpu(runtime, path)
    else:
        total = sum(len(part.get_nodes()) for part in own) + len(rest)
    taken = None if total is None else max(total - len(rest), 0)
    return Placement(total, taken, len(own) if provider.compiles else None, behind)


def _parts(session: Any) -> Any:
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    return ask() if ask else None


def _count_on_cpu(runtime: Any, path: Path) -> int | None:
    options = record(runtime.SessionOptions())
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(NO_PACKING, "1")
    return count_nodes(runtime.InferenceSession(str(path), options, providers=[CPU], enable_fallback=0))
