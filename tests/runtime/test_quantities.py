"""How a time and a size are written."""

from __future__ import annotations

import pytest

from edgeferry_runtime.quantities import duration, size


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0153, "15.3 us"),
        (0.9999, "1 ms"),
        (1.0, "1 ms"),
        (12.345, "12.3 ms"),
        (999.9, "0.9999 s"),
        (2500.0, "2.5 s"),
        (0.0, "0 us"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "unknown"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3 GiB")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
