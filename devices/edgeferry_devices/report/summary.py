"""The table of what was measured last, bundle by bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from edgeferry_devices.report.numbers import UNKNOWN, decimals, mib, moment, number
from edgeferry_devices.sides import Side

PERCENT = ("top1", "auc")
"""Metrics that are percent; of these a drop is in points, and of others in percent of the value."""


@dataclass(frozen=True)
class Cell:
    """A figure, and what stands beside it in smaller letters."""

    text: str
    beside: str = ""


@dataclass(frozen=True)
class Row:
    """One side in the table."""

    side: Side
    cells: tuple[Cell, ...]
    engine: str
    date: str


@dataclass(frozen=True)
class Group:
    """The rows of one bundle, the fastest first."""

    bundle: str
    rows: tuple[Row, ...]


HEAD = (
    ("median", "ms"),
    ("p95", "ms"),
    ("first run", "ms"),
    ("init", "ms"),
    ("size", "MiB"),
    ("accuracy", ""),
    ("peak memory", "MiB"),
)
"""The columns of a row's cells, each with its unit."""


def by_bundle(sides: Sequence[Side]) -> list[tuple[str, list[Side]]]:
    """Return the sides of each bundle; they are in order already."""
    return [(bundle, list(found)) for bundle, found in groupby(sides, key=lambda side: side.key.bundle)]


def summary(sides: Sequence[Side]) -> list[Group]:
    """Return the table's groups."""
    return [Group(bundle, tuple(_rows(found))) for bundle, found in by_bundle(sides)]


def _rows(sides: Sequence[Side]) -> Iterator[Row]:
    columns: list[list[float | None]] = [
        [side.median_ms for side in sides],
        [side.percentile(95) for side in sides],
        [side.middle("first_inference_ms") for side in sides],
        [side.middle("init_ms") for side in sides],
        [mib(side.size_bytes) for side in sides],
        [mib(side.peak_bytes) for side in sides],
    ]
    written = [_column(column) for column in columns]
    places = decimals([side.median_ms for side in sides])
    for i, side in enumerate(sides):
        low, high = side.median[1]
        median, p95, first, init, size, peak = (Cell(column[i]) for column in written)
        median = Cell(median.text, f"{number(low, places)} to {number(high, places)}")
        accuracy = Cell(*accuracy_text(side.accuracy))
        engine = f"{side.last.engine.get('name')} {side.last.engine.get('version')}"
        yield Row(side, (median, p95, first, init, size, accuracy, peak), engine, moment(side.at))


def _column(values: Sequence[float | None]) -> list[str]:
    places = decimals([value for value in values if value is not None])
    return [number(value, min(places, 3)) for value in values]


def accuracy_text(told: Mapping[str, Any]) -> tuple[str, str]:
    """Write the artifact's accuracy, and how much of the source's it lost.

    Args:
        told: ``metric``, ``artifact`` and ``drop``, which is None where it has no bound; empty where nothing is known.

    Returns:
        The figure, and what stands beside it.
    """
    value, drop, metric = told.get("artifact"), told.get("drop"), str(told.get("metric", ""))
    if not isinstance(value, (int, float)):
        return UNKNOWN, ""
    unit = "" if metric in PERCENT else " %"
    lost = f", drop {float('inf') if drop is None else drop:.2f}{unit}" if "drop" in told else ""
    return f"{value:.1f} %" if metric in PERCENT else f"{value:.4g}", f"{metric}{lost}"
