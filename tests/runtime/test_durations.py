"""The grammar of a length of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.durations import format_duration, parse_duration
from edgeferry_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("1m30s", 90), ("0.5s", 0.5), ("1.5h", 5400), ("7", 7)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "-5m", "30s5m", "1e3", "nan", "٣s", "5m\n", "inf"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--sustained: .* is no length of time; give one such as 30s"):
        parse_duration(text, "--sustained")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.04, "0s"),
        (1.25, "1.2s"),
        (59.94, "59.9s"),
        (59.96, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (5400.4, "1h30m"),
    ],
)
def test_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**6))
def test_what_is_written_is_read_again(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
