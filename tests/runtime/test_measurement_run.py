"""Timing: exact under a clock of our own."""

from __future__ import annotations

from itertools import chain, repeat

import numpy as np
import pytest

from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.measurement.marks import of_samples
from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.measurement.run import collect, measure, warm_up
from edgeferry_runtime.measurement.statistics import summarize

QUICK = BenchOptions(num_runs=5, warmup_runs=2, min_secs=0, max_warmup_secs=0)


class Clock:
    """Time that passes only while the measured thing runs."""

    def __init__(self, *durations_ms: float) -> None:
        self.now = 0
        self.left = chain(durations_ms, repeat(durations_ms[-1]))

    def __call__(self) -> int:
        return self.now

    def run(self) -> None:
        self.now += int(next(self.left) * 1e6)


def timed(clock: Clock, options: BenchOptions) -> tuple[list[float], list[float]]:
    warmup, samples = measure(clock.run, options, clock)
    return warmup.tolist(), samples.tolist()


def test_runs_are_timed_one_by_one_and_warm_up_apart() -> None:
    warmup, samples = timed(Clock(100, 7, 1, 2, 3, 4, 5), QUICK)
    assert warmup == [100, 7]
    assert samples == [1, 2, 3, 4, 5]


def test_at_least_so_many_runs_and_so_many_seconds() -> None:
    assert len(timed(Clock(10), BenchOptions(num_runs=3, min_secs=0.1))[1]) == 10
    assert len(timed(Clock(10), BenchOptions(num_runs=30, min_secs=0.1))[1]) == 30


def test_at_most_so_many_seconds() -> None:
    options = BenchOptions(num_runs=1000, warmup_runs=1000, min_secs=0, max_secs=0.05, max_warmup_secs=0)
    warmup, samples = timed(Clock(10), options)
    assert (len(warmup), len(samples)) == (5, 5)
    (mark,) = of_samples(np.array(samples), options)
    assert str(mark) == "short: only 5 of 1000 runs fitted into 0.05 s"


def test_one_run_is_made_however_slow() -> None:
    warmup, samples = timed(Clock(10_000), BenchOptions(max_secs=0, min_secs=0))
    assert (len(warmup), len(samples)) == (1, 1)
    assert summarize(np.array(samples))["stddev_ms"] == 0


def test_warm_up_goes_on_until_two_windows_agree() -> None:
    """Frequency that rises, as a governor does it, over a second."""
    clock = Clock(50, *np.linspace(20, 10, 60), 10)
    found = warm_up(clock.run, BenchOptions(), clock)
    assert found.samples[0] == 50
    assert found.steady
    assert 60 <= len(found.samples) < 100
    assert found.samples[-10:] == pytest.approx(10, rel=0.05)


def test_steady_runs_warm_up_no_longer_than_asked() -> None:
    clock = Clock(500, 20)
    found = warm_up(clock.run, BenchOptions(warmup_runs=10), clock)
    assert found.steady
    assert len(found.samples) == 11


def test_runs_that_never_settle_are_not_waited_for_and_marked() -> None:
    clock = Clock(*np.geomspace(1, 1e5, 5000))
    options = BenchOptions(max_warmup_secs=3)
    found = warm_up(clock.run, options, clock)
    assert found.steady is False
    assert 3000 < found.samples.sum() < 3100
    assert "unsteady: 3 s of warming up did not make the runs steady" in map(
        str, of_samples(np.ones(50), options, found.steady)
    )


def test_a_first_inference_that_takes_long_still_warms_up() -> None:
    clock = Clock(60_000, 10)
    assert warm_up(clock.run, BenchOptions(), clock).steady


def test_slow_runs_end_their_warm_up_in_time() -> None:
    clock = Clock(4000)
    found = warm_up(clock.run, BenchOptions(), clock)
    assert (len(found.samples), found.steady) == (4, True)
    clock = Clock(4000, 4000, 3000, 2000, 1000)
    assert warm_up(clock.run, BenchOptions(max_warmup_secs=9), clock).steady is False


def test_what_lies_between_runs_is_not_measured() -> None:
    clock = Clock(10)
    spent = []

    def between(seconds: float) -> None:
        spent.append(seconds)
        clock.now += 5 * 10**6

    samples = collect(clock.run, BenchOptions(num_runs=3, min_secs=0), clock, between)
    assert samples.tolist() == [10, 10, 10]
    assert spent == [0.01, 0.025, 0.04]


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"num_runs": 0}, "--num-runs"),
        ({"warmup_runs": 0}, "--warmup-runs"),
        ({"min_secs": -1}, "--min-secs"),
        ({"seed": -1}, "--seed"),
        ({"max_secs": float("nan")}, "--max-secs"),
        ({"min_secs": 9, "max_secs": 3}, "--min-secs"),
        ({"sustained_secs": -1}, "--sustained"),
        ({"cool_to": -1}, "--cool-to"),
        ({"max_wait_secs": float("inf")}, "--max-wait-secs"),
        ({"max_load": -0.5}, "--max-load"),
        ({"max_warmup_secs": -1}, "--max-warmup-secs"),
    ],
)
def test_wrong_options_are_named(wrong: dict, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        BenchOptions(**wrong)
    with pytest.raises(UnknownNameError):
        BenchOptions(delegate="gpuu")


def test_how_long_it_may_take() -> None:
    assert BenchOptions().longest_secs == 300
    assert BenchOptions(sustained_secs=3600, cool_to=50).longest_secs == 600 + 150 + 3600
    assert BenchOptions(max_load=1, max_wait_secs=5).longest_secs == 5 + 300
