"""Numbers in columns."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from edgeferry_devices.report.numbers import decimals, mib, moment, number, percent


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([12.3, 1234.0], 1),
        ([1.5], 2),
        ([0.123, 100], 3),
        ([0.01234], 4),
        ([1e-9], 4),
        ([5000.0], 0),
        ([0.0], 2),
        ([], 2),
    ],
)
def test_the_smallest_has_three_digits(values: list[float], places: int) -> None:
    assert decimals(values) == places


def test_what_is_unknown_is_a_dash() -> None:
    assert (number(None, 1), number(1234.56, 1), number(0.5, 3)) == ("\N{EN DASH}", "1,234.6", "0.500")
    assert (mib(None), mib(3 << 20)) == (None, 3.0)
    assert percent(0.0825) == "8.2"


def test_moments_are_written_in_utc() -> None:
    assert moment(datetime(2026, 11, 27, 1, 30, tzinfo=timezone(timedelta(hours=5)))) == "2026-11-26 20:30"
