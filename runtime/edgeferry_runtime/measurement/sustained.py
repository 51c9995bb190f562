"""Running for minutes: latency over time and temperature, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.measurement.run import Clock, Run, timed
from edgeferry_runtime.tensors import Array

WINDOWS = 60
KEEP = 100_000
"""Samples that are kept of a sustained run: every one, or every second, third … of each window."""
LEVEL = 0.03
"""The change of the median from first to last, below which latency is said to have stayed."""


@dataclass(frozen=True)
class Window:
    """A stretch of a sustained run.

    Attributes:
        at_s: When it ended, from the beginning.
        runs: How many runs it had.
        p5_ms: 5th percentile.
        median_ms: Median.
        p95_ms: 95th percentile.
        state: The machine's state at its end; see `edgeferry_runtime.machine.state`.
    """

    at_s: float
    runs: int
    p5_ms: float
    median_ms: float
    p95_ms: float
    state: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Sustained:
    """A sustained run: its windows, and the samples that were kept, float64 of [kept]."""

    windows: tuple[Window, ...]
    samples: Array

    @property
    def runs(self) -> int:
        """How many runs were measured."""
        return sum(window.runs for window in self.windows)


def sustain(
    run: Run, seconds: float, clock: Clock, read: Callable[[], Mapping[str, Any]]
) -> Iterator[tuple[Window, Array]]:
    """Run for so many seconds, and yield each window with the samples that it keeps, as soon as it is over.

    Args:
        run: What to measure.
        seconds: How long.
        clock: Tells nanoseconds.
        read: Reads the machine's state, between two windows.
    """
    begin = clock()
    length = seconds / WINDOWS
    end = 0.0
    while end < seconds:
        samples = timed(run, clock, _until(min(length, seconds - end)))
        end = (clock() - begin) / 1e9
        p5, median, p95 = (float(p) for p in np.percentile(samples, (5, 50, 95)))
        window = Window(round(end, 3), len(samples), p5, median, p95, read())
        yield window, samples[:: -(-len(samples) // (KEEP // WINDOWS))]


def _until(seconds: float) -> Callable[[int, float], bool]:
    return lambda runs, spent: spent < seconds


def drift_sentence(windows: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence how latency went: the medians of the first and of the last tenth of the windows.

    Args:
        windows: JSON forms of `Window`.
    """
    tenth = max(1, len(windows) // 10)
    first, last = (float(np.median([w["median_ms"] for w in side])) for side in (windows[:tenth], windows[-tenth:]))
    change = last / first - 1
    how = "stayed" if abs(change) <= LEVEL else "rose" if change > 0 else "fell"
    worst = max(w["median_ms"] for w in windows)
    figures = f"{first:.4g} ms first, {last:.4g} ms last, {change:+.1%}; {worst:.4g} ms in the slowest window"
    length = format_duration(windows[-1]["at_s"])
    return f"over {length} the median {how} ({figures}), {_temperatures(windows)}"


def _temperatures(windows: Sequence[Mapping[str, Any]]) -> str:
    known = [w["state"]["temperature_c"] for w in windows if "temperature_c" in w["state"]]
    if not known:
        return "and no temperature sensor could be read"
    return f"while the temperature went from {known[0]:.1f} to {known[-1]:.1f} °C, {max(known):.1f} °C at most"
