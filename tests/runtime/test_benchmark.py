"""Measuring: exact under a clock of our own, and honest about what it saw."""

from __future__ import annotations

import json
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime import bench
from edgeferry_runtime.benchmark import (
    BenchOptions,
    conditions,
    measure,
    median_interval,
    steadiness,
    summarize,
)
from edgeferry_runtime.errors import MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.profile import Profile

QUICK = BenchOptions(num_runs=5, warmup_runs=2, min_secs=0)


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
    options = BenchOptions(num_runs=1000, warmup_runs=1000, min_secs=0, max_secs=0.05)
    warmup, samples = timed(Clock(10), options)
    assert (len(warmup), len(samples)) == (5, 5)
    assert "only 5 of 1000 runs fitted into 0.05 s" in steadiness(np.array(samples), options)


def test_one_run_is_made_however_slow() -> None:
    warmup, samples = timed(Clock(10_000), BenchOptions(max_secs=0, min_secs=0))
    assert (len(warmup), len(samples)) == (1, 1)
    assert summarize(np.array(samples))["stddev_ms"] == 0


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"num_runs": 0}, "--num-runs"),
        ({"warmup_runs": 0}, "--warmup-runs"),
        ({"min_secs": -1}, "--min-secs"),
        ({"seed": -1}, "--seed"),
        ({"max_secs": float("nan")}, "--max-secs"),
        ({"min_secs": 9, "max_secs": 3}, "--min-secs"),
    ],
)
def test_wrong_options_are_named(wrong: dict, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        BenchOptions(**wrong)
    with pytest.raises(UnknownNameError):
        BenchOptions(delegate="gpuu")


def test_figures_of_known_samples() -> None:
    figures = summarize(np.arange(1, 102, dtype=np.float64))
    assert (figures["min_ms"], figures["max_ms"], figures["mean_ms"], figures["median_ms"]) == (1, 101, 51, 51)
    assert (figures["p5_ms"], figures["p90_ms"], figures["p95_ms"], figures["p99_ms"]) == (6, 91, 96, 100)
    assert figures["stddev_ms"] == pytest.approx(29.3, abs=0.01)


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=60), st.integers(0, 9))
def test_the_interval_holds_the_median_and_stays_among_the_samples(samples: list[float], seed: int) -> None:
    values = np.array(samples)
    low, high = median_interval(values, seed)
    assert values.min() <= low <= high <= values.max()
    assert median_interval(values, seed) == (low, high)
    odd = values if len(values) % 2 else values[:-1]
    if len(odd):
        low, high = median_interval(odd, seed)
        assert low <= np.median(odd) <= high


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(3)
    values = generator.lognormal(0, 0.3, 201)
    resampled = np.median(generator.choice(values, (20_000, len(values))), axis=1)
    plain = np.percentile(resampled, (2.5, 97.5))
    assert median_interval(values) == pytest.approx(plain, rel=0.01)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        low, high = median_interval(generator.exponential(1.0, 51))
        held += low <= np.log(2) <= high
    assert 0.91 <= held / 300 <= 0.99


def test_steady_samples_raise_no_warning() -> None:
    assert steadiness(np.random.default_rng(0).normal(10, 0.1, 200), QUICK) == ()


def test_spread_and_drift_are_said() -> None:
    spread = np.where(np.arange(100) % 10 == 0, 30.0, 10.0)
    assert "unsteady" in steadiness(spread, QUICK)[0]
    drift = np.linspace(10, 14, 100)
    assert "drifting: the last quarter's median is +29%" in steadiness(drift, QUICK)[0]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, None),
        ({"load1": 0.2, "throttled": []}, {"load1": 0.9, "throttled": []}, None),
        ({"throttled": ["throttled since boot"]}, {"throttled": ["throttled since boot"]}, None),
        ({"throttled": []}, {"throttled": ["throttled since boot"]}, "throttled: throttled since boot"),
        ({"throttled": ["under-voltage"]}, {"throttled": ["under-voltage"]}, "throttled: under-voltage"),
        ({"load1": 3.0}, {}, "busy: load 3.0 on 4 cores"),
        ({"frequency_mhz": 1500.0}, {"frequency_mhz": 600.0}, "slowed: from 1500 to 600 MHz"),
        ({"frequency_mhz": 1500.0}, {"frequency_mhz": 1490.0}, None),
        ({"frequency_mhz": 1500.0}, {}, None),
    ],
)
def test_conditions(before: dict, after: dict, said: str | None) -> None:
    warnings = conditions(before, after, 4)
    assert (said in warnings[0]) if said else warnings == ()


@pytest.mark.parametrize("kind", ["pair.tflite", "batch.onnx", "int8.tflite"])
def test_an_artifact_is_measured(artifacts, kind: str) -> None:
    profile = bench(artifacts[kind], QUICK)
    assert profile.num_runs == len(profile.samples_ms) == 5
    assert profile.warmup_runs == 2
    assert profile.init_ms > 0
    assert profile.first_inference_ms > 0
    assert profile.artifact["format"] == kind.split(".")[1]
    assert profile.artifact["size_bytes"] == artifacts[kind].stat().st_size
    assert profile.engine["delegate"] == "cpu"
    assert profile.rss_bytes
    assert profile.timestamp.endswith("+00:00")
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))).median_ms == profile.median_ms


def test_a_bundle_is_measured_under_its_name(make_bundle) -> None:
    bundle = make_bundle("pair.onnx")
    profile = bench(bundle.path, QUICK, device="shelf")
    assert profile.artifact["bundle"] == bundle.id
    assert profile.artifact["precision"] == "none"
    assert profile.device == "shelf"


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(MissingFileError):
        bench(tmp_path / "none.onnx", QUICK)
