"""Sustained runs: windows, the sentence, and the chart."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.commands.chart_text import HEIGHT, chart, windows_chart
from edgeferry_runtime.measurement.sustained import KEEP, WINDOWS, drift_sentence, sustain


class Clock:
    """Time that passes only while the measured thing runs."""

    def __init__(self, *durations_us: float) -> None:
        self.now = 0
        self.left = chain(durations_us, repeat(durations_us[-1]))

    def __call__(self) -> int:
        return self.now

    def run(self) -> None:
        self.now += int(next(self.left) * 1e3)


def windows(medians: list[float], warm: list[float] | None = None) -> list[dict[str, Any]]:
    states = [{"temperature_c": t} for t in warm] if warm else [{} for _ in medians]
    return [
        {"at_s": 5.0 * (i + 1), "median_ms": m, "state": s}
        for i, (m, s) in enumerate(zip(medians, states, strict=True))
    ]


def test_it_goes_on_for_so_long_in_so_many_windows() -> None:
    clock = Clock(1000)
    found = list(sustain(clock.run, 6.0, clock, lambda: {"temperature_c": 50.0}))
    assert len(found) == WINDOWS
    assert clock.now == 6 * 10**9
    assert all(window.runs == 100 and window.median_ms == 1 for window, _ in found)
    assert found[-1][0].at_s == 6
    assert found[0][0].state == {"temperature_c": 50.0}


def test_a_run_longer_than_a_window_has_one_of_its_own() -> None:
    clock = Clock(2_000_000)
    found = list(sustain(clock.run, 6.0, clock, dict))
    assert [window.runs for window, _ in found] == [1, 1, 1]


@pytest.mark.slow
def test_samples_are_thinned_evenly_and_bounded() -> None:
    clock = Clock(1)
    found = list(sustain(clock.run, 0.6, clock, dict))
    kept = np.concatenate([samples for _, samples in found])
    assert sum(window.runs for window, _ in found) == 600_000
    assert KEEP / 2 < len(kept) <= KEEP


@pytest.mark.parametrize(
    ("medians", "warm", "said"),
    [
        (
            [1.0] * 60,
            None,
            "over 5m the median stayed (1 ms first, 1 ms last, +0.0%; 1 ms in the slowest window), and no ",
        ),
        ([1.0] * 30 + [1.2] * 30, [45.0] * 30 + [80.0] * 30, "rose (1 ms first, 1.2 ms last, +20.0%; 1.2 ms in the"),
        ([2.0] * 30 + [1.0] * 30, None, "fell (2 ms first, 1 ms last, -50.0%"),
        ([1.0], [45.0], "over 5s the median stayed"),
    ],
)
def test_one_sentence(medians: list[float], warm: list[float] | None, said: str) -> None:
    assert said in drift_sentence(windows(medians, warm))


def test_the_sentence_names_the_heat() -> None:
    text = drift_sentence(windows([1.0, 1.0, 1.0], [45.0, 81.0, 80.0]))
    assert text.endswith("while the temperature went from 45.0 to 80.0 °C, 81.0 °C at most")


@pytest.mark.slow
@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=80))
def test_every_value_has_its_column_and_order_is_kept(values: list[float]) -> None:
    rows = chart(values, lambda v: "x").splitlines()
    assert len(rows) == HEIGHT
    columns = {i: HEIGHT - 1 - r for r, row in enumerate(rows) for i, c in enumerate(row[3:]) if c == "*"}
    assert len(columns) == len(values)
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert a > b or columns[i] <= columns[j]


def test_noise_does_not_look_like_drift() -> None:
    rows = chart([1.0, 1.001, 0.999], str).splitlines()
    assert sum("*" in row for row in rows) == 1


def test_temperature_is_drawn_where_every_window_has_one() -> None:
    assert "°C" in windows_chart(windows([1.0, 2.0], [40.0, 50.0]), str)
    assert "°C" not in windows_chart(windows([1.0, 2.0]), str)
