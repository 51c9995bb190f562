"""Where the runs lie: the samples of each side over an axis that its bundle shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_devices.report.numbers import decimals, number
from edgeferry_devices.report.scales import Scale, Tick, scale_of
from edgeferry_devices.report.summary import by_bundle
from edgeferry_devices.sides import Side
from edgeferry_runtime.tensors import Array

WIDTH, HEIGHT = 1000, 30
"""Of a row, in the units of its path; the page stretches it."""
FEWEST, MOST = 40, 160
"""Bins over the whole axis."""
ENDS = (0.5, 99.5)
"""The percentiles from which to which the axis goes; a single outlier would squeeze all others together."""


@dataclass(frozen=True)
class Row:
    """One side: its shape as an SVG path, where its percentiles lie, and their figures."""

    side: Side
    path: str
    marks: tuple[Tick, ...]
    highest: str
    described: str


@dataclass(frozen=True)
class Group:
    """The rows of one bundle, and the axis that they share."""

    bundle: str
    ticks: tuple[Tick, ...]
    log: bool
    rows: tuple[Row, ...]


def distributions(sides: Sequence[Side]) -> list[Group]:
    """Return a group for each bundle."""
    return [_group(bundle, found) for bundle, found in by_bundle(sides)]


def _group(bundle: str, sides: Sequence[Side]) -> Group:
    scale = scale_of([side.percentile(end) for side in sides for end in ENDS])
    places = decimals([side.median_ms for side in sides])
    rows = tuple(_row(side, scale, places) for side in sides)
    return Group(bundle, tuple(scale.ticks()), scale.log, rows)


def _row(side: Side, scale: Scale, places: int) -> Row:
    figures = {"p50": side.median_ms, "p95": side.percentile(95), "p99": side.percentile(99)}
    marks = tuple(Tick(scale.at(value), number(value, places)) for value in figures.values())
    told = ", ".join(f"{name} {mark.text} ms" for name, mark in zip(figures, marks, strict=True))
    highest = number(float(side.samples.max()), places)
    path = outline(np.array([scale.at(float(sample)) for sample in side.samples]))
    return Row(side, path, marks, highest, f"{side.runs} runs of {side.key.bundle} on {side.key.device}: {told}")


def outline(places: Array) -> str:
    """Return the histogram of places on an axis as a closed SVG path, as high as the row where it is highest.

    The width of a bin is that of Freedman and Diaconis.

    Args:
        places: 0 to 1, float64 of [runs].
    """
    quarter, three = np.percentile(places, (25, 75))
    width = 2 * (three - quarter) / len(places) ** (1 / 3)
    bins = int(np.clip(1 / width if width > 0 else MOST, FEWEST, MOST))
    counts, _ = np.histogram(places, bins=bins, range=(0.0, 1.0))
    heights = HEIGHT - np.ceil(counts / counts.max() * (HEIGHT - 2))
    words: list[str] = []
    level = float(HEIGHT)
    for i in np.flatnonzero(np.diff(heights, prepend=HEIGHT, append=HEIGHT)):
        edge, now = round(i * WIDTH / bins, 1), float(heights[i]) if i < bins else float(HEIGHT)
        words.append(f"{'L' if words else 'M'}{edge:g} {level:g}V{now:g}")
        level = now
    return "".join(words) + "Z"
