"""Timing calls: nothing but the call lies between two readings of the clock."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.tensors import Array

STEADY = 0.02
"""Warm-up ends when the medians of two successive windows differ by no more than this."""
WINDOW_S = 0.1
"""Seconds that such a window lasts at least."""
LONG_WINDOW_S = 1.0
"""Seconds after which one ends even with fewer than half of the warm-up's runs; a slow run averages enough alone."""

Run = Callable[[], object]
Clock = Callable[[], int]
Between = Callable[[float], None]
"""Called between two runs with the seconds that were spent; what it takes is not measured."""


def idle(spent: float) -> None:
    """Do nothing between runs."""


@dataclass(frozen=True)
class Warmup:
    """The runs that do not count.

    Attributes:
        samples: Milliseconds of each, float64 of [runs]; the first is the first inference.
        steady: Whether they ended steady; None where that was not asked.
    """

    samples: Array
    steady: bool | None


def measure(run: Run, options: BenchOptions, clock: Clock = time.perf_counter_ns) -> tuple[Array, Array]:
    """Warm up, then time every call of `run`.

    Args:
        run: What to measure.
        options: How often and how long.
        clock: Tells nanoseconds.

    Returns:
        Milliseconds of each warm-up and of each measured run, float64.
    """
    return warm_up(run, options, clock).samples, collect(run, options, clock)


def warm_up(run: Run, options: BenchOptions, clock: Clock = time.perf_counter_ns) -> Warmup:
    """Call `run` until its times are steady.

    The first call stands alone. Windows follow, until there are `warmup_runs` and the medians of the last two agree
    within `STEADY`, or the time is over; benchmark-ips for Ruby decides in the same way. A run that creeps by less
    than that per window passes; `marks` looks for drift in what is measured.
    """
    limit = min(options.max_warmup_secs, options.max_secs)
    if not limit:
        wanted, most_s = options.warmup_runs, options.max_secs
        return Warmup(timed(run, clock, lambda runs, spent: runs < wanted and spent < most_s), None)
    samples = timed(run, clock, lambda runs, spent: False)
    spent_s = 0.0
    medians: list[float] = []
    while spent_s < limit and not (_agree(medians) and len(samples) >= options.warmup_runs):
        window = timed(run, clock, _window(options.warmup_runs // 2, limit - spent_s))
        samples = np.concatenate([samples, window])
        spent_s += float(window.sum()) / 1e3
        medians.append(float(np.median(window)))
    return Warmup(samples, _agree(medians))


def _agree(medians: Sequence[float]) -> bool:
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STEADY * medians[-1]


def _window(least: int, most_s: float) -> Callable[[int, float], bool]:
    """Return what ends a window: so many runs in `WINDOW_S` or more, and not much beyond `LONG_WINDOW_S`."""
    return lambda runs, spent: spent < min(most_s, LONG_WINDOW_S) and (runs < least or spent < WINDOW_S)


def collect(run: Run, options: BenchOptions, clock: Clock = time.perf_counter_ns, between: Between = idle) -> Array:
    """Time calls of `run` until there are enough; see `BenchOptions`.

    Returns:
        Milliseconds of each, float64.
    """

    def more(runs: int, spent: float) -> bool:
        between(spent)
        return spent < options.max_secs and (runs < options.num_runs or spent < options.min_secs)

    return timed(run, clock, more)


def timed(run: Run, clock: Clock, more: Callable[[int, float], bool]) -> Array:
    """Call `run` at least once, and while `more` of runs and seconds spent says so; return milliseconds of each."""
    taken = array("q")
    begin = now = clock()
    while not taken or more(len(taken), (now - begin) / 1e9):
        start = clock()
        run()
        now = clock()
        taken.append(now - start)
    return np.round(np.frombuffer(taken, np.int64) / 1e6, 6)
