"""The shapes of distributions."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from edgeferry_devices.report.distributions import HEIGHT, WIDTH, distributions, outline


def points(path: str) -> list[tuple[float, float, float]]:
    """Return each step of a path: where it is, and from which height to which."""
    return [tuple(map(float, step)) for step in re.findall(r"[ML]([\d.]+) ([\d.]+)V([\d.]+)", path)]


def test_two_bumps_are_two_bumps() -> None:
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(0.2, 0.02, 900), rng.normal(0.8, 0.02, 300)])
    steps = points(outline(places))
    assert min(height for _, _, height in steps) == 2
    between = [height for at, _, height in steps if 0.35 * WIDTH < at < 0.65 * WIDTH]
    assert set(between) <= {HEIGHT}
    second = min(height for at, _, height in steps if at > 0.65 * WIDTH)
    assert 0.2 < (HEIGHT - second) / (HEIGHT - 2) < 0.5


@pytest.mark.parametrize("places", [[0.5], [0.0], [1.0], [0.0, 1.0], [0.3] * 500])
def test_any_samples_have_a_closed_shape_inside_the_row(places: list[float]) -> None:
    path = outline(np.array(places))
    assert path.startswith("M")
    assert path.endswith("Z")
    steps = points(path)
    assert steps[0][1] == steps[-1][2] == HEIGHT
    assert all(0 <= at <= WIDTH and 2 <= height <= HEIGHT for at, _, height in steps)
    assert all(one[2] == other[1] for one, other in pairwise(steps))


def test_devices_of_a_bundle_share_an_axis(measure, sides, real) -> None:
    measure("fast", "a", 20 / real.median_ms)
    measure("slow", "a", 2000 / real.median_ms)
    measure("other", "b", 2e4 / real.median_ms)
    first, second = distributions(sorted(sides(), key=lambda side: side.key.bundle))
    assert (first.bundle, second.bundle) == ("a", "b")
    fast, slow = (row.marks[0].at for row in first.rows)
    assert fast < 0.5 < slow
    assert first.log
    assert [row.marks[0].text for row in first.rows] == ["20.0", "2,000.0"]


def test_the_slowest_run_is_told_though_the_axis_ends_before(measure, sides, real) -> None:
    samples = (*np.linspace(1, 2, 999), 5000.0)
    measure(samples_ms=samples, num_runs=1000, median_ms=1.5, p95_ms=1.95, p99_ms=1.99, max_ms=5000.0)
    ((row,),) = (group.rows for group in distributions(sides()))
    assert row.highest == "5,000.00"
    assert [mark.text for mark in row.marks] == ["1.50", "1.95", "1.99"]
    assert max(mark.at for mark in row.marks) > 0.9
    assert row.described == "1000 runs of tiny on pi: p50 1.50 ms, p95 1.95 ms, p99 1.99 ms"
