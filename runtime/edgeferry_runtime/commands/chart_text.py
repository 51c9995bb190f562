"""A small chart for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

HEIGHT = 7
LEAST_SPAN = 0.1
"""The part of the middle value that the axis spans at least, so that noise does not look like drift."""


def windows_chart(windows: Sequence[Mapping[str, Any]], duration: Callable[[float], str]) -> str:
    """Draw the median latency of each window, and the temperature below it where there is a sensor.

    Args:
        windows: Of a sustained run; see `edgeferry_runtime.profile.Profile`.
        duration: Writes milliseconds.
    """
    charts = [chart([w["median_ms"] for w in windows], duration)]
    warm = [w["state"].get("temperature_c") for w in windows]
    if None not in warm:
        charts.append(chart(warm, lambda celsius: f"{celsius:.1f} °C"))
    return "\n\n".join(charts)


def chart(values: Sequence[float], label: Callable[[float], str]) -> str:
    """Draw values from left to right, one column each, with the highest and the lowest level named.

    Args:
        values: One or more numbers.
        label: Writes one of them.
    """
    low, high = _span(values)
    levels = [min(HEIGHT - 1, int((value - low) / (high - low) * HEIGHT)) if high > low else 0 for value in values]
    names = {HEIGHT - 1: label(high), 0: label(low)}
    width = max(map(len, names.values()))
    rows = []
    for row in reversed(range(HEIGHT)):
        line = "".join("*" if level == row else " " for level in levels)
        rows.append(f"{names.get(row, '').rjust(width)} |{line}".rstrip())
    return "\n".join(rows)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    spare = (LEAST_SPAN * (low + high) / 2 - (high - low)) / 2
    return (low - spare, high + spare) if spare > 0 else (low, high)
