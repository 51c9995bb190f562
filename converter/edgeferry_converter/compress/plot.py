"""A compression as a picture: the metric after each step against sparsity, size and measured time.

It is drawn by matplotlib without pyplot, so that no state of the process is touched, and the same history gives the
same bytes with the same matplotlib.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_converter.compress.history import Entry, History, Standing
from edgeferry_converter.metrics import UNITS
from edgeferry_converter.quiet import require
from edgeferry_runtime.errors import MissingFileError, UnknownNameError
from edgeferry_runtime.whole import whole_file

SUFFIXES = (".svg", ".png")
PRINTED = {
    **{"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "edgeferry", "savefig.dpi": 150},
}
GIVEN, PASSED, FAILED, GATE = "#000000", "#0b62a8", "#c23b10", "#6b6b6b"
"""Colours that differ in grey as well; shapes differ too."""
NAMES = {"top1": "top-1 accuracy", "auc": "area under the ROC curve", "mse": "mean squared error"}
BESIDE = ((8, 5), (8, -11), (-8, 5), (-8, -11))
"""Where a number stands, in points from its mark, so that those of neighbours do not cover each other."""
LONGEST, LONGEST_TITLE = 40, 120
"""Letters; what is longer is cut."""
LARGEST = 1e100
"""Figures beyond it, such as the loss of a model that diverged, are said to be none: no axis can hold them."""


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        mark: ``S`` for the source, else the step's number.
        words: What is said of it below.
        standing: Its figures.
        colour: By what it is.
        shape: Likewise, as matplotlib calls it.
        kept: Whether it is what came out.
    """

    mark: str
    words: str
    standing: Standing
    colour: str
    shape: str
    kept: bool = False


@dataclass(frozen=True)
class Panel:
    """One of the pictures side by side.

    Attributes:
        label: Of the horizontal axis.
        value: What is drawn along it; None where it was not measured.
        without: What is said where there is nothing to draw.
        most: The right end of the axis; None lets the values say it.
    """

    label: str
    value: Callable[[Standing], float | None]
    without: str
    most: float | None = None


def plot(history: History, path: Path) -> None:
    """Draw a compression, whole or not at all; an older file is replaced.

    Args:
        history: What happened.
        path: A file that ends in ``.svg`` or ``.png``.

    Raises:
        UnknownNameError: For another suffix.
        MissingFileError: If its folder does not exist.
        MissingExtraError: If matplotlib is not installed.
        OSError: If it cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UnknownNameError(f"plot {path}: suffix", path.suffix, SUFFIXES)
    if not path.absolute().parent.is_dir():
        raise MissingFileError(path.parent, "no such folder", "create it, or draw the plot elsewhere")
    require(f"plot {path}", "plot", "matplotlib")
    import matplotlib

    default = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    metadata = {"Date": None, "Creator": None} if kind == ".svg" else {"Software": None}
    with warnings.catch_warnings(), matplotlib.rc_context({**default, **PRINTED}), whole_file(path) as stream:
        warnings.simplefilter("ignore")  # of letters that its font has not
        _figure(history).savefig(stream, format=kind[1:], metadata=metadata)


def _figure(history: History) -> Any:
    from matplotlib.figure import Figure

    points = tuple(_points(history))
    lines = [f"{point.mark}  {point.words}" for point in points]
    rows = math.ceil(len(lines) / 2)
    height = 3.75 + 0.17 * rows
    figure = Figure(figsize=(10.5, height))
    axes = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.075, right=0.985, wspace=0.12, top=1 - 0.42 / height, bottom=1 - 3.05 / height)
    figure.text(0.075, 1 - 0.2 / height, _title(history), weight="bold", va="center", parse_math=False)
    for axis, panel in zip(axes, panels(points), strict=True):
        _draw(axis, panel, points)
        _gates(axis, history)
    axes[0].set_ylabel(_metric(history))
    for x, column in ((0.075, lines[:rows]), (0.54, lines[rows:])):
        text = "\n".join(column)
        figure.text(x, 1 - 3.6 / height, text, va="top", linespacing=1.35, fontsize=8, parse_math=False)
    return figure


def _title(history: History) -> str:
    stopped = f"; stopped: {history.stopped}" if history.stopped else ""
    source = f"{Path(history.source).name} ({history.framework})"
    return _plain(f"{source}, judged by {history.judged:,} samples{stopped}", LONGEST_TITLE)


def _metric(history: History) -> str:
    unit = UNITS.get(history.metric, "")
    return NAMES.get(history.metric, _plain(history.metric)) + (f", {unit}" if unit else "")


def _points(history: History) -> Iterator[Point]:
    kept = bool(history.steps) and not history.best
    words = f"source{' (kept)' if kept else ''}: {_figures(history, history.start)}"
    yield Point("S", words, history.start, GIVEN, "D", kept)
    for number, step in enumerate(history.steps, 1):
        colour, shape = (PASSED, "o") if step.passed else (FAILED, "X")
        yield Point(str(number), _words(history, number, step), step.standing, colour, shape, step.name == history.best)


def _words(history: History, number: int, step: Entry) -> str:
    name = step.name.removeprefix(f"{number}-")
    name = name if step.method in name else f"{name} ({step.method})"
    told = " (kept)" if history.best == step.name else ""
    if not step.passed:
        told = f" (not passed: {step.drop:.2f} lost, {step.max_drop:g} allowed)"
    return f"{_plain(name)}{told}: {_figures(history, step.standing)}"


def _figures(history: History, standing: Standing) -> str:
    score = f"{standing.score:.2f} %" if UNITS.get(history.metric) else f"{standing.score:.4g}"
    return score if standing.precision == "none" else f"{score}, {standing.precision}"


def _plain(text: str, longest: int = LONGEST) -> str:
    """Return a text in one line that every file can hold."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def panels(points: Sequence[Point]) -> tuple[Panel, Panel, Panel]:
    """Return what is drawn: the size is that of the compressed artifact where every point has one."""
    standings = [point.standing for point in points]
    if all(standing.compressed_bytes is not None for standing in standings):
        size = Panel("size of the compressed artifact, KiB", lambda s: _kib(s.compressed_bytes), "")
    elif all(standing.artifact_bytes is not None for standing in standings):
        size = Panel("size of the artifact, KiB", lambda s: _kib(s.artifact_bytes), "")
    else:
        size = Panel("parameters, thousands", lambda s: s.parameters / 1000, "")
    untimed = "No time was measured:\nthe recipe has no [convert]."
    return (
        Panel("zeros in kernels, %", lambda s: 100 * s.sparsity, "", 100.0),
        size,
        Panel("time of one run on one core, ms", lambda s: s.median_ms, untimed),
    )


def _kib(size: int | None) -> float | None:
    return None if size is None else size / 1024


def _draw(axis: Any, panel: Panel, points: Sequence[Point]) -> None:
    placed = [(x, p.standing.score, p) for p in points if (x := panel.value(p.standing)) is not None]
    placed = [(x, y, point) for x, y, point in placed if abs(x) <= LARGEST and abs(y) <= LARGEST]
    axis.set_xlabel(panel.label)
    if not placed:
        words = panel.without or "No step has finite figures."
        axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", va="center", color=GATE)
        axis.set_xticks([])
        return
    axis.plot([x for x, _, _ in placed], [y for _, y, _ in placed], color="#b5b5b5", linewidth=0.8, zorder=1)
    for number, (x, y, point) in enumerate(placed):
        _mark(axis, point, (x, y), BESIDE[number % len(BESIDE)])
    most = panel.most or 1.15 * max(x for x, _, _ in placed) or 1.0
    axis.set_xlim(-0.08 * most, 1.04 * most)
    axis.margins(y=0.14)
    left = [point.mark for point in points if point not in [p for _, _, p in placed]]
    if left:
        told = f"without a figure: {', '.join(left)}"
        axis.text(0.98, 0.02, told, transform=axis.transAxes, ha="right", va="bottom", fontsize=8, color=GATE)


def _mark(axis: Any, point: Point, place: tuple[float, float], beside: tuple[int, int]) -> None:
    """Draw a point, with a ring where it was kept, and its number on a white ground."""
    axis.scatter(*place, s=42, c=point.colour, marker=point.shape, zorder=3, linewidths=0)
    if point.kept:
        axis.scatter(*place, s=130, facecolors="none", edgecolors=point.colour, zorder=3, linewidths=1)
    side = "left" if beside[0] > 0 else "right"
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
    axis.annotate(point.mark, place, beside, textcoords="offset points", ha=side, color=point.colour, bbox=white)


def _gates(axis: Any, history: History) -> None:
    """Draw how far the metric may go: each limit once."""
    start = history.start.score
    for limit in sorted({step.max_drop for step in history.steps if step.max_drop is not None}):
        level = start * (1 + limit / 100) if history.metric == "mse" else start - limit
        if abs(level) <= LARGEST:
            axis.axhline(level, color=GATE, linestyle="--", linewidth=0.9, zorder=2)
            told = f"gate: {limit:g}{' %' if history.metric == 'mse' else ''} lost"
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axis.annotate(told, (1, level), (-2, -9), ha="right", color=GATE, fontsize=7, **place)
