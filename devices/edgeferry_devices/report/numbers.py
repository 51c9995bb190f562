"""How the page writes numbers: in columns of one unit, with as many decimals as the smallest needs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timezone

UNKNOWN = "\N{EN DASH}"


def decimals(values: Iterable[float]) -> int:
    """Return how many decimals give the smallest of the values three digits, 0 to 4.

    Args:
        values: What stands in one column.
    """
    smallest = min((abs(v) for v in values if v), default=1.0)
    return min(4, max(0, 2 - math.floor(math.log10(smallest))))


def number(value: float | None, places: int) -> str:
    """Write a number with so many decimals; what is unknown is a dash."""
    return UNKNOWN if value is None else f"{value:,.{places}f}"


def percent(part: float) -> str:
    """Write a part of the whole: 0.0825 as ``8.3``."""
    return f"{100 * part:.1f}"


def moment(at: datetime) -> str:
    """Write a time in UTC to the minute, ``2026-11-27 04:10``."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M")


def mib(count: float | None) -> float | None:
    """Return bytes in MiB."""
    return None if count is None else count / 2**20
