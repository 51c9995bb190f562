"""What changed since last time: each side against the run before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeferry_devices.comparing import Row
from edgeferry_devices.report.numbers import decimals, moment, number
from edgeferry_devices.report.scales import Scale, Tick
from edgeferry_devices.sides import Side
from edgeferry_runtime.measurement.compare import ONE_EACH, Comparison

LEAST = 1.1
"""The ratio that the axis reaches on both sides at least, so that noise does not look like a change."""
MOST = 20.0
ROUND = ((0.95, 1.05), (0.9, 1.1), (0.8, 1.25), (0.67, 1.5), (0.5, 2.0), (0.33, 3.0), (0.2, 5.0), (0.1, 10.0))
"""Ratios that may stand beside the axis, in pairs of faster and slower by about as much."""
APART = 0.14
"""The part of the axis that two of its numbers are apart at least."""
ORDER = ("slower", "faster", "no difference")


@dataclass(frozen=True)
class Change:
    """One side against the run before it.

    Attributes:
        row: Both.
        found: How they compare.
        before: The median before in milliseconds, and when that was measured.
        now: The median now, and when.
        span: Where the ratio's interval and the ratio lie on the axis: low, point, high.
        doubts: What kinds of marks the run before and this one have, in words; empty where there are none.
    """

    row: Row
    found: Comparison
    before: tuple[str, str]
    now: tuple[str, str]
    span: tuple[float, float, float]
    doubts: str


@dataclass(frozen=True)
class Changes:
    """All changes, slower ones first, and the sides that were measured once alone."""

    rows: tuple[Change, ...]
    ticks: tuple[Tick, ...]
    once: tuple[Side, ...]
    alone: bool

    def count(self, verdict: str) -> int:
        """Return how many changed so."""
        return sum(change.found.verdict == verdict for change in self.rows)


def changes(rows: Sequence[Row]) -> Changes:
    """Put what was compared in order: slower ones first, then faster ones, the largest change first."""
    compared = [(row, row.before, row.change) for row in rows if row.before and row.change]
    compared.sort(key=lambda one: (ORDER.index(one[2].verdict), -abs(one[2].ratio - 1), one[0].side.key))
    scale = _scale([found for _, _, found in compared])
    return Changes(
        tuple(_change(row, before, found, scale) for row, before, found in compared),
        tuple(_ticks(scale)),
        tuple(row.side for row in rows if row.change is None),
        any(ONE_EACH in found.warnings for _, _, found in compared),
    )


def _change(row: Row, before: Side, found: Comparison, scale: Scale) -> Change:
    places = decimals([before.median_ms, row.side.median_ms])
    low, high = found.ratio_ci95
    told = (("before", before), ("now", row.side))
    return Change(
        row,
        found,
        (number(before.median_ms, places), moment(before.at)),
        (number(row.side.median_ms, places), moment(row.side.at)),
        (scale.at(low), scale.at(found.ratio), scale.at(high)),
        "; ".join(f"{when}: {_kinds(side)}" for when, side in told if side.reasons),
    )


def _kinds(side: Side) -> str:
    return ", ".join(reason.partition(":")[0] for reason in side.reasons)


def _scale(found: Sequence[Comparison]) -> Scale:
    """Return an axis that is symmetrical around 1."""
    ends = [end for comparison in found for end in comparison.ratio_ci95]
    most = min(MOST, max([LEAST, *(max(end, 1 / end) for end in ends)]) * 1.03)
    return Scale(1 / most, most, True)


def _ticks(scale: Scale) -> list[Tick]:
    """Return 1 and what fits on both sides of it, from the outside in."""
    ticks = [Tick(0.5, "1")]
    for pair in reversed(ROUND):
        places = [scale.at(value) for value in pair]
        room = all(abs(place - tick.at) >= APART for place in places for tick in ticks)
        if room and pair[1] < scale.high:
            ticks += [Tick(place, f"{value:g}") for place, value in zip(places, pair, strict=True)]
    return sorted(ticks, key=lambda tick: tick.at)
