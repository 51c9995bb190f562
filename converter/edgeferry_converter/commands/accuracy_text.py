"""How the accuracy of two models is shown, by every command that measures it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_converter.metrics import UNITS


def accuracy_line(figures: Mapping[str, Any], sides: Mapping[str, str]) -> str:
    """Say in one line what labelled data told.

    Args:
        figures: metric, output, samples, drop, and one value for each side; None is what is not finite.
        sides: By key of its value, what each side is called.
    """
    unit = UNITS[figures["metric"]]
    values = ", ".join(f"{name} {_number(figures[key], '.4g')}{unit}" for key, name in sides.items())
    drop = f"a drop of {_number(figures['drop'], '.3g')} {'points' if unit else 'percent'}"
    return f"{figures['metric']} of {figures['output']!r} on {figures['samples']} labelled samples: {values}, {drop}"


def _number(value: float | None, digits: str) -> str:
    return "inf" if value is None else format(value, digits)
