"""How a sweep is shown to people."""

from __future__ import annotations

from edgeferry_runtime.commands.output import table
from edgeferry_runtime.measurement.sweep import Row, Sweep
from edgeferry_runtime.quantities import duration

HEAD = ("delegate", "median", "95 % interval", "nodes", "executes")


def sweep_text(found: Sweep) -> str:
    """Lay out a sweep as a table, what could not be used, what speaks against the figures, and the recommendation."""
    warned = [f"warning  {row.delegate}: {warning}" for row in found.rows for warning in row.warnings]
    refused = [f"not here  {delegate}: {reason}" for delegate, reason in found.refused.items()]
    trust = "; mind the warnings above" if warned else ""
    chosen = f"recommended: --delegate {found.recommended} ({found.reason}){trust}"
    return "\n".join([table([HEAD, *map(_row, found.rows)]), *refused, *warned, "", chosen])


def _row(row: Row) -> tuple[str, ...]:
    low, high = row.median_ms_ci95
    taken, total = (row.execution.get(key) for key in ("nodes_delegated", "nodes_total"))
    nodes = "" if taken is None or total is None else f"{taken} of {total}"
    interval = f"{duration(low)} to {duration(high)}"
    return row.delegate, duration(row.median_ms), interval, nodes, str(row.execution.get("processor", ""))
