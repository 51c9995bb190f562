"""From values to ranges: what every range must hold, on any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeferry_converter.quantize.calibration.histogram import BINS, Histogram
from edgeferry_converter.quantize.calibration.methods import METHODS, PERCENTILE, WITHOUT_HISTOGRAM, ranges
from edgeferry_converter.quantize.calibration.observer import Observer, Statistics

VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
SAMPLES = st.lists(arrays(np.float32, st.integers(1, 20), elements=VALUES), min_size=1, max_size=8)


def seen(samples: list[np.ndarray]) -> Observer:
    observer = Observer(histogram=Histogram())
    for sample in samples:
        observer.observe(sample)
    return observer


def snr_db(values: np.ndarray, low: float, high: float) -> float:
    """Quantize to int8 over a range and zero, as every engine does, and measure."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    stored = np.clip(np.round(values / scale) + zero_point, -128, 127)
    noise = values - (stored - zero_point) * scale
    return float(10 * np.log10(np.sum(values**2) / np.sum(noise**2)))


@pytest.mark.slow
@given(SAMPLES)
def test_no_value_is_lost_or_counted_twice(samples: list[np.ndarray]) -> None:
    histogram = Histogram()
    for sample in samples:
        histogram.add(sample)
    values = np.concatenate(samples).astype(np.float64)
    centers, counts = histogram.bins()
    assert histogram.total == values.size == histogram.zeros + counts.sum()
    assert histogram.zeros == np.sum(values == 0)
    assert len(centers) <= BINS
    for center, count in zip(centers, counts, strict=True):
        inside = (values >= center - histogram.width / 2) & (values < center + histogram.width / 2)
        assert np.sum(inside & (values != 0)) == count


@pytest.mark.slow
@given(SAMPLES, st.randoms())
def test_the_histogram_does_not_depend_on_the_order(samples: list[np.ndarray], shuffle: object) -> None:
    mixed = list(samples)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = (seen(s).histogram for s in (samples, mixed))
    assert first is not None and second is not None
    assert (first.exponent, first.zeros) == (second.exponent, second.zeros)
    for a, b in zip(first.bins(), second.bins(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@given(SAMPLES, st.randoms())
def test_min_max_is_the_extremes_in_any_order(samples: list[np.ndarray], shuffle: object) -> None:
    values = np.concatenate(samples)
    mixed = list(samples)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert METHODS["min-max"](seen(mixed), 256) == (values.min(), values.max())


@pytest.mark.slow
@given(SAMPLES, st.sampled_from(sorted(METHODS)), st.sampled_from([256, 65536]))
def test_every_range_lies_within_the_extremes_or_ends_at_zero(
    samples: list[np.ndarray], method: str, levels: int
) -> None:
    values = np.concatenate(samples).astype(np.float64)
    low, high = METHODS[method](seen(samples), levels)
    slack = 1e-12 * np.abs(values).max()
    assert min(values.min(), 0) - slack <= low <= high <= max(values.max(), 0) + slack


@pytest.mark.slow
@given(SAMPLES)
def test_the_percentile_range_holds_its_share(samples: list[np.ndarray]) -> None:
    values = np.concatenate(samples).astype(np.float64)
    low, high = METHODS["percentile"](seen(samples), 256)
    assert np.mean((values >= low) & (values <= high)) >= PERCENTILE - 1e-9


@pytest.mark.slow
@given(SAMPLES)
def test_mse_is_never_worse_than_min_max_by_its_own_measure(samples: list[np.ndarray]) -> None:
    statistics = Statistics(histograms=True)
    for sample in samples:
        statistics.observe("x", sample)
    found = {method: ranges(statistics, method)["x"] for method in ("mse", "min-max")}
    assert found["mse"][1] - found["mse"][0] <= max(found["min-max"][1], 0) - min(found["min-max"][0], 0)


def test_a_rare_activation_stays_in_min_max_and_is_clipped_by_the_moving_average() -> None:
    random = np.random.default_rng(0)
    samples = [random.uniform(-1, 1, 100).astype("f4") for _ in range(200)]
    samples[50][7] = 40.0
    observer = seen(samples)
    assert METHODS["min-max"](observer, 256)[1] == 40.0
    assert METHODS["moving-average"](observer, 256)[1] < 2.0


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_outliers_cost_the_bulk_its_resolution_by_min_max_alone(method: str) -> None:
    bulk = np.random.default_rng(0).standard_normal(200_000).astype("f4")
    outliers = np.array([30.0, -30.0, 28.0], np.float32)
    observer = seen([*np.split(bulk, 100), outliers])
    ours, plain = (snr_db(bulk, *METHODS[m](observer, 256)) for m in (method, "min-max"))
    assert ours > plain + 2


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [-3.0], [1e-40, 0.0], [100.0, 101.0]])
def test_degenerate_tensors_have_a_range(method: str, values: list[float]) -> None:
    low, high = METHODS[method](seen([np.array(values, np.float32)]), 256)
    assert min(*values, 0) <= low <= high <= max(*values, 0)


def test_what_is_not_finite_belongs_to_no_range() -> None:
    statistics = Statistics(histograms=True)
    statistics.observe("x", np.array([[np.nan, -np.inf, 3.4e38, 2.0, -1.0]], np.float32))
    statistics.observe("never", np.array([np.nan], np.float32))
    statistics.observe("empty", np.zeros((0, 4), np.float32))
    assert set(statistics.tensors) == {"x"}
    assert ranges(statistics, "min-max") == {"x": (-1.0, 2.0)}
    assert statistics.tensors["x"].dimensions == 2


def test_histograms_are_kept_where_they_are_needed_only() -> None:
    statistics = Statistics()
    statistics.observe("x", np.ones(3, np.float32))
    assert statistics.tensors["x"].histogram is None
    assert {name: ranges(statistics, name)["x"] for name in WITHOUT_HISTOGRAM} == dict.fromkeys(
        WITHOUT_HISTOGRAM, (1.0, 1.0)
    )
