"""What samples say: known figures, and laws that hold for all samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.measurement.statistics import median_interval, ratio_interval, side_interval, summarize

SAMPLES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=30).map(np.array)
SIDES = st.lists(SAMPLES, min_size=1, max_size=6)


def test_figures_of_known_samples() -> None:
    figures = summarize(np.arange(1, 102, dtype=np.float64))
    assert (figures["min_ms"], figures["max_ms"], figures["mean_ms"], figures["median_ms"]) == (1, 101, 51, 51)
    assert (figures["p5_ms"], figures["p90_ms"], figures["p95_ms"], figures["p99_ms"]) == (6, 91, 96, 100)
    assert figures["stddev_ms"] == pytest.approx(29.3, abs=0.01)


@pytest.mark.slow
@given(SAMPLES)
def test_percentiles_are_in_order_and_among_the_samples(samples: np.ndarray) -> None:
    figures = summarize(samples)
    ordered = [figures[f"{key}_ms"] for key in ("min", "p5", "median", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered)
    assert figures["min_ms"] * (1 - 1e-9) <= figures["mean_ms"] <= figures["max_ms"] * (1 + 1e-9)
    assert figures["stddev_ms"] >= 0


@pytest.mark.slow
@given(SAMPLES, st.floats(0.1, 10))
def test_figures_scale_with_the_samples(samples: np.ndarray, factor: float) -> None:
    once, scaled = summarize(samples), summarize(samples * factor)
    for key, value in once.items():
        assert scaled[key] == pytest.approx(np.multiply(value, factor), rel=1e-6, abs=1e-9)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        low, high = median_interval(generator.exponential(1.0, 51))
        held += low <= np.log(2) <= high
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.slow
@given(SIDES, SIDES)
def test_the_ratio_lies_in_its_interval_and_within_what_is_possible(first: list, second: list) -> None:
    ratio, (low, high) = ratio_interval(first, second)
    assert low <= ratio <= high
    least = min(map(np.min, second)) / max(map(np.max, first))
    most = max(map(np.max, second)) / min(map(np.min, first))
    assert least * (1 - 1e-9) <= low <= high <= most * (1 + 1e-9)
    assert ratio_interval(first, second) == (ratio, (low, high))


@pytest.mark.slow
@given(SIDES)
def test_a_side_against_itself_is_no_difference(side: list) -> None:
    ratio, (low, high) = ratio_interval(side, side)
    assert ratio == 1
    assert low <= 1 <= high


@pytest.mark.slow
@given(SIDES)
def test_the_interval_of_a_side_holds_its_median(side: list) -> None:
    middle, (low, high) = side_interval(side)
    assert middle == np.median([np.median(samples) for samples in side])
    assert min(map(np.min, side)) <= low <= middle <= high <= max(map(np.max, side))


def processes(generator: np.random.Generator, median: float, count: int) -> list[np.ndarray]:
    """Samples of processes whose medians differ by 2 %, as memory layout makes them."""
    return [median * generator.normal(1, 0.02) * generator.lognormal(0, 0.05, 200) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 6])
def test_what_is_equal_is_called_different_in_few_of_a_hundred(count: int) -> None:
    generator = np.random.default_rng(7)
    wrong = 0
    for _ in range(100):
        _, (low, high) = ratio_interval(processes(generator, 1, count), processes(generator, 1, count))
        wrong += not low <= 1 <= high
    assert wrong <= 10


def test_what_differs_is_found_with_its_size() -> None:
    generator = np.random.default_rng(8)
    ratio, (low, high) = ratio_interval(processes(generator, 1, 6), processes(generator, 1.1, 6))
    assert 1.0 < low < 1.1 < high
    assert ratio == pytest.approx(1.1, abs=0.03)
