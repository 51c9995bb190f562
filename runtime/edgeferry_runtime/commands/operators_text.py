"""How time per operator is shown to people."""

from __future__ import annotations

from collections.abc import Sequence

from edgeferry_runtime.commands.output import table
from edgeferry_runtime.measurement.operators import Operator, OperatorTimes
from edgeferry_runtime.profile import Profile

WIDEST = 60
"""Characters of a name to show at most; its end tells the most."""


def profile_operators(profile: Profile) -> OperatorTimes:
    """Return the operators of a profile that has them."""
    return OperatorTimes.from_dict({"operators": profile.operators, **profile.operators_run})


def operators_text(times: OperatorTimes, top: int) -> str:
    """Lay out the slowest types, the slowest nodes, and what the figures are worth."""
    types, nodes = times.by_type(), times.slowest()
    return "\n".join(
        [
            _heading("by type", types, top),
            table([("share", "mean us", "median us", "calls", "type", "by", ""), *map(_row, types[:top])]),
            "",
            _heading("by node", nodes, top),
            table([("share", "mean us", "median us", "calls", "type", "by", "node"), *map(_row, nodes[:top])]),
            "",
            *_worth(times),
        ]
    )


def _heading(title: str, rows: Sequence[Operator], top: int) -> str:
    return f"{title}, {f'{top} of ' if top < len(rows) else ''}{len(rows)}"


def _row(operator: Operator) -> tuple[str, ...]:
    figures = (operator.mean_us, operator.median_us)
    name = operator.name if len(operator.name) <= WIDEST else f"...{operator.name[3 - WIDEST :]}"
    provider = operator.provider.removesuffix("ExecutionProvider")
    return (
        f"{operator.share:.1%}",
        *(f"{us:.1f}" for us in figures),
        f"{operator.calls:g}",
        operator.type,
        provider,
        name,
    )


def _worth(times: OperatorTimes) -> list[str]:
    """Say where the figures are from, what they cover and what they cost."""
    sums = f"{times.sum_us:.4g} us of operators, {times.coverage:.0%} of the {times.run_us:.4g} us of a run"
    cost = f"the profiler made a run {times.slowdown:.2f} times as long"
    absent = ", ".join(f"{count} {operator}" for operator, count in times.absent.items())
    return [
        f"measured with {times.method}: {sums}; {cost} ({times.runs} runs)",
        *([f"not executed under their own name (folded, fused, or of a delegate): {absent}"] if absent else []),
        *times.notes,
    ]
