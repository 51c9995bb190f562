"""Where the time of a run goes, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeferry_devices.report.numbers import percent
from edgeferry_devices.report.summary import by_bundle
from edgeferry_devices.sides import Side
from edgeferry_runtime.measurement.operators import Operator, OperatorTimes

TOP = 8
PER_BUNDLE = 4
"""Sides of a bundle that are drawn; more would say the same again."""
LONGEST = 44
"""Letters of an operator's name that are shown; its end tells the most."""


@dataclass(frozen=True)
class Bar:
    """One operator: its share of the time as text and as a part of the longest bar."""

    name: str
    kind: str
    share: str
    us: str
    length: float


@dataclass(frozen=True)
class Card:
    """The operators of one side.

    Attributes:
        side: Where they ran.
        bars: The slowest, the slowest first.
        rest: What the others take together, in words; empty where there are none.
        kinds: The shares by type, in words.
        coverage: How far the figures can be believed.
        notes: What limits them.
    """

    side: Side
    bars: tuple[Bar, ...]
    rest: str
    kinds: str
    coverage: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Cards:
    """What is drawn, and how many sides with operators are not."""

    drawn: tuple[Card, ...]
    left: int


def operators(sides: Sequence[Side]) -> Cards:
    """Return a card for the sides whose operators were measured: of each bundle the slowest and the fastest ones."""
    chosen, left = [], 0
    for _, found in by_bundle(sides):
        told = [one for side in found if (one := _told(side))]
        half = PER_BUNDLE // 2
        keep = told if len(told) <= PER_BUNDLE else [*told[:half], *told[-half:]]
        chosen += keep
        left += len(told) - len(keep)
    return Cards(tuple(_card(side, times) for side, times in chosen), left)


def _told(side: Side) -> tuple[Side, OperatorTimes] | None:
    """Return the newest figures of a side; only some of its processes may have taken them."""
    for profile in reversed(side.profiles):
        if profile.operators:
            return side, OperatorTimes.from_dict({"operators": profile.operators, **profile.operators_run})
    return None


def _card(side: Side, times: OperatorTimes) -> Card:
    slowest = times.slowest()
    rest = slowest[TOP:]
    together = sum(operator.share for operator in rest)
    kinds = [f"{kind.type} {percent(kind.share)} %" for kind in times.by_type()[:4]]
    return Card(
        side,
        tuple(_bars(slowest[:TOP])),
        f"{len(rest)} more operators, {percent(together)} % together" if rest else "",
        ", ".join(kinds),
        _coverage(times),
        times.notes,
    )


def _bars(operators: Sequence[Operator]) -> Iterator[Bar]:
    longest = max((operator.share for operator in operators), default=0.0) or 1.0
    for operator in operators:
        name = operator.name if len(operator.name) <= LONGEST else f"…{operator.name[1 - LONGEST :]}"
        share, us = percent(operator.share), f"{operator.median_us:,.1f}"
        yield Bar(name, operator.type, share, us, operator.share / longest)


def _coverage(times: OperatorTimes) -> str:
    covered = f"{times.sum_us:,.0f} µs of operators are {times.coverage:.0%} of the {times.run_us:,.0f} µs of a run"
    return f"{covered}; the profiler made a run {times.slowdown:.2f} times as long ({times.runs} runs, {times.method})"
