"""Moments: what is written, and what is meant."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.moments import parse_moment
from edgeferry_runtime.errors import UsageError

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "begin", "lasts"),
    [
        ("2026-11-20", datetime(2026, 11, 20), timedelta(days=1)),
        ("2026-11-20T10:30", datetime(2026, 11, 20, 10, 30), timedelta(minutes=1)),
        ("2026-11-20 10:30", datetime(2026, 11, 20, 10, 30), timedelta(minutes=1)),
        ("2026-11-20T10:30:05", datetime(2026, 11, 20, 10, 30, 5), timedelta(seconds=1)),
        ("2026-11-20T10:30Z", datetime(2026, 11, 20, 10, 30, tzinfo=timezone.utc), timedelta(minutes=1)),
        ("2026-11-20T10:30+02:00", datetime(2026, 11, 20, 8, 30, tzinfo=timezone.utc), timedelta(minutes=1)),
    ],
)
def test_a_moment_lasts_as_long_as_it_is_written(text: str, begin: datetime, lasts: timedelta) -> None:
    assert parse_moment(text, "--since", NOW) == begin.astimezone()
    assert parse_moment(text, "--until", NOW, end=True) == (begin + lasts).astimezone()


@pytest.mark.parametrize(
    ("text", "ago"),
    [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("2w", timedelta(weeks=2)), ("0d", timedelta())],
)
def test_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    assert parse_moment(text, "--since", NOW) == parse_moment(text, "--until", NOW, end=True) == NOW - ago


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "-7d",
        "7m",
        "7 d",
        "\u0667d",
        "yesterday",
        "2026-13-01",
        "2026-11-31",
        "20.11.2026",
        "2026-11-20T",
        "9999-12-31",
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match="--until") as caught:
        parse_moment(text, "--until", NOW, end=True)
    assert "is no date; give one such as 2026-11-20, 2026-11-20T10:30 or 7d" in str(caught.value)


@given(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)))
def test_every_second_is_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=timezone.utc)
    assert parse_moment(moment.isoformat(), "--since", NOW) == moment
