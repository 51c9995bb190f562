"""The options that say where to execute, and how the answer is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeferry_runtime.engines import Execution

Command = TypeVar("Command", bound=Callable[..., Any])

FORMS = "cpu[:THREADS], cpu:openvino, gpu[:BACKEND], npu[:BACKEND], edgetpu[:usb|pci[:N]], or LIBRARY[?KEY=VALUE&...]"


def delegate_options(command: Command) -> Command:
    """Add ``--delegate`` and ``--require-full-delegation`` to a command that executes an artifact."""
    where = f"Where to execute: {FORMS}; joined by commas, an order of preference.  [default: cpu]"
    full = "Fail with status 3 where the delegate does not take every node."
    command = click.option("--require-full-delegation", is_flag=True, help=full)(command)
    return click.option("--delegate", metavar="DELEGATE[,...]", help=where)(command)


def execution_lines(execution: Execution) -> list[str]:
    """Say in words what really executes: the processor, its share of the nodes, and what failed before."""
    lines = [f"{execution.delegate}: {execution.processor}{_share(execution)}"]
    if execution.left_behind and not execution.on_cpu:
        lines.append(f"left to the CPU: {', '.join(map(str, execution.left_behind))}")
    return [*lines, *(f"fell back from {reason}" for reason in execution.fallbacks)]


def _share(execution: Execution) -> str:
    if execution.nodes_total is None or execution.nodes_delegated is None:
        return "" if execution.on_cpu else "; which nodes it took is not known"
    by = " by XNNPACK" if execution.on_cpu else ""
    parts = f" in {execution.partitions} partition{'s' if execution.partitions != 1 else ''}"
    return f"; {execution.nodes_delegated} of {execution.nodes_total} nodes{by}{parts if execution.partitions else ''}"
