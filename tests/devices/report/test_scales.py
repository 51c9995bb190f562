"""Axes: values lie in order, between the ends, and the numbers beside them are round and few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.report.scales import Scale, scale_of

LATENCIES = st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=20)


@given(LATENCIES, st.sampled_from([None, True, False]))
def test_an_axis_holds_its_values_in_their_order(values: list[float], log: bool | None) -> None:
    scale = scale_of(values, log=log)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(scale.low <= value <= scale.high for value in values)
    assert all(0 <= place <= 1 for place in places)


@given(LATENCIES)
def test_equal_steps_are_equal_ratios_on_a_logarithmic_axis(values: list[float]) -> None:
    scale = scale_of(values, log=True)
    middle = (scale.low * scale.high) ** 0.5
    assert scale.at(middle) == pytest.approx(0.5, abs=1e-6)


@given(LATENCIES, st.integers(3, 8))
def test_a_few_round_numbers_stand_beside_an_axis(values: list[float], most: int) -> None:
    scale = scale_of(values)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most + 1
    assert [tick.at for tick in ticks] == sorted({tick.at for tick in ticks})
    for tick in ticks:
        assert scale.low * (1 - 1e-9) <= float(tick.text) <= scale.high * (1 + 1e-9)
        assert tick.at == pytest.approx(scale.at(float(tick.text)), abs=1e-6)
        assert len(tick.text.replace(".", "").replace("-", "").strip("0").partition("e")[0]) <= 5


@pytest.mark.parametrize(
    ("scale", "texts"),
    [
        (Scale(0, 10), ["0", "2", "4", "6", "8", "10"]),
        (Scale(49.5, 52.5), ["49.5", "50.0", "50.5", "51.0", "51.5", "52.0", "52.5"]),
        (Scale(0.09, 12, True), ["0.1", "0.3", "1", "3", "10"]),
        (Scale(25, 150, True), ["30", "50", "70", "100"]),
        (Scale(0.001, 100000, True), ["0.001", "0.1", "10", "1000", "100000"]),
    ],
)
def test_the_numbers_are_those_that_one_would_write(scale: Scale, texts: list[str]) -> None:
    assert [tick.text for tick in scale.ticks()] == texts


def test_what_lies_outside_is_put_at_the_end() -> None:
    for scale in (Scale(1, 10), Scale(1, 10, True)):
        assert (scale.at(0.5), scale.at(1), scale.at(10), scale.at(99)) == (0, 0, 1, 1)


def test_an_axis_is_logarithmic_where_values_lie_far_apart() -> None:
    assert not scale_of([1.0, 3.9]).log
    assert scale_of([1.0, 4.1]).log
    assert not scale_of([0.0, 4.1]).log


def test_one_value_alone_has_an_axis() -> None:
    for value in (0.0, 0.02, 7.0, -3.0):
        scale = scale_of([value])
        assert scale.at(value) == pytest.approx(0.5)
        assert scale.ticks()
