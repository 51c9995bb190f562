"""Latency against what it is bought with: the artifact's size, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgeferry_devices.report.plane import Plane
from edgeferry_devices.report.scales import scale_of
from edgeferry_devices.report.summary import PERCENT
from edgeferry_devices.sides import Side
from edgeferry_runtime.quantities import duration, size

SERIES = 5
"""Devices that have a mark and a line of their own; of more, the fastest and the slowest are named."""
LINE = 13.0
"""Height of a line of letters."""
LETTER = 6.2
"""Width of a letter, on average."""
LONGEST, LONGEST_BUNDLE = 18, 28
"""Letters of a series' and of a bundle's name that are shown in a chart."""


@dataclass(frozen=True)
class Point:
    """One side: where it lies, its series, whether it can be trusted, and what it is in words."""

    x: float
    y: float
    series: int
    trusted: bool
    told: str


@dataclass(frozen=True)
class Label:
    """Words in the chart."""

    x: float
    y: float
    text: str
    series: int = 0
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """A scatter of sides.

    Attributes:
        title: What it shows.
        described: The same in a sentence, for those who do not see it.
        caption: Below the x axis.
        plane: The axes.
        points: The sides.
        guides: Bundles, each above where its sides lie.
        labels: Beside points.
        many: Whether there are more devices than series.
    """

    title: str
    described: str
    caption: str
    plane: Plane
    points: tuple[Point, ...]
    guides: tuple[Label, ...]
    labels: tuple[Label, ...]
    many: bool


def against_size(sides: Sequence[Side]) -> Chart | None:
    """Return the scatter of latency against size; None where no size is known."""
    found = [(side.size_bytes / 2**20, side) for side in sides if side.size_bytes]
    return _chart("Latency against size", "size of the artifact, MiB", found, _names(sides)) if found else None


def against_accuracy(sides: Sequence[Side]) -> list[Chart]:
    """Return a scatter of latency against accuracy for each metric."""
    by_metric: dict[str, list[tuple[float, Side]]] = {}
    for side in sides:
        value = side.accuracy.get("artifact")
        if isinstance(value, (int, float)):
            metric = str(side.accuracy.get("metric", "accuracy"))
            caption = f"{metric}, %" if metric in PERCENT else metric
            by_metric.setdefault(caption, []).append((float(value), side))
    names = _names(sides)
    return [_chart("Latency against accuracy", caption, found, names) for caption, found in sorted(by_metric.items())]


def _names(sides: Sequence[Side]) -> list[str]:
    """Return the names of all series, so that each has the same mark in every chart."""
    return sorted({_series(side) for side in sides})


def _chart(title: str, caption: str, found: Sequence[tuple[float, Side]], names: Sequence[str]) -> Chart:
    many = len(names) > SERIES
    plane = Plane(
        scale_of([x for x, _ in found], margin=0.06),
        scale_of([side.median_ms for _, side in found], margin=0.06),
        height=330,
        right=116,
        top=66,
    )
    points = tuple(_point(plane, x, side, 0 if many else names.index(_series(side))) for x, side in found)
    labels = _extremes(plane, found) if many else _ends(plane, found, names)
    guides = _guides(plane, found)
    bundles = ", ".join(dict.fromkeys(side.key.bundle for _, side in found))
    series = {_series(side) for _, side in found}
    described = f"{len(found)} points, of {len(series)} devices and delegates, and {bundles}."
    return Chart(title, described, caption, plane, points, tuple(guides), tuple(_apart(labels, plane)), many)


def _series(side: Side) -> str:
    return f"{side.key.device}, {side.key.how}"


def _point(plane: Plane, x: float, side: Side, series: int) -> Point:
    where = plane.at(x, side.median_ms)
    told = f"{side.key.bundle} on {_series(side)}: median {duration(side.median_ms)}, {size(side.size_bytes)}"
    return Point(*where, series, side.trusted, told)


def _ends(plane: Plane, found: Sequence[tuple[float, Side]], names: Sequence[str]) -> list[Label]:
    """Name each series beside its last point."""
    labels = []
    for i, name in enumerate(names):
        if own := [(x, side.median_ms) for x, side in found if _series(side) == name]:
            x, y = plane.at(*max(own))
            labels.append(Label(x + 8, y + 4, _short(name), i))
    return labels


def _extremes(plane: Plane, found: Sequence[tuple[float, Side]]) -> list[Label]:
    """Name the fastest and the slowest of each bundle."""
    labels = []
    for bundle in dict.fromkeys(side.key.bundle for _, side in found):
        of_bundle = sorted((side.median_ms, x, side.key.device) for x, side in found if side.key.bundle == bundle)
        for median, x, device in {of_bundle[0], of_bundle[-1]}:
            across, down = plane.at(x, median)
            labels.append(Label(across + 8, down + 4, _short(device)))
    return labels


def _short(name: str, longest: int = LONGEST) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _apart(labels: Sequence[Label], plane: Plane) -> Iterator[Label]:
    """Move labels down until none lies upon another, and up where that leaves the chart."""
    placed: list[Label] = []
    for label in sorted(labels, key=lambda label: (label.y, label.x, label.text)):
        y = label.y
        for other in placed:
            if abs(other.x - label.x) < LETTER * max(len(other.text), len(label.text)) and abs(other.y - y) < LINE:
                y = other.y + LINE
        placed.append(replace(label, y=round(y, 1)))
    lowest = max((label.y for label in placed), default=0.0)
    over = max(0.0, lowest - (plane.height - plane.bottom))
    for label in placed:
        yield replace(label, y=round(label.y - over, 1)) if over else label


def _guides(plane: Plane, found: Sequence[tuple[float, Side]]) -> list[Label]:
    """Name each bundle above its points, in as many lines as keep the names apart."""
    ends: list[float] = []
    guides = []
    places = {side.key.bundle: plane.at(x, side.median_ms)[0] for x, side in found}
    for bundle, x in sorted(places.items(), key=lambda one: (one[1], one[0])):
        text = _short(bundle, LONGEST_BUNDLE)
        half = LETTER * len(text) / 2
        middle = min(max(x, half), plane.width - half)
        row = next((i for i, end in enumerate(ends) if end < middle - half - 6), len(ends))
        ends[row : row + 1] = [middle + half]
        guides.append(Label(round(middle, 1), plane.top - 10 - LINE * min(row, 2), text, round(x), "middle"))
    return guides
