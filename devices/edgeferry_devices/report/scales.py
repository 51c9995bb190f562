"""Axes: where a number lies on one, and which numbers are written beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE = 4.0
"""The highest over the lowest value, above which an axis of latencies is logarithmic."""
MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A number written beside an axis: where, from 0 to 1, and how."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """An axis from the lowest to the highest value.

    Attributes:
        low: The value at 0.
        high: The value at 1, above `low`.
        log: Whether equal steps are equal ratios.
    """

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, from 0 to 1; one that lies outside is put at the end."""
        low, high, value = (self._bent(v) for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def value(self, at: float) -> float:
        """Return the value at a place from 0 to 1."""
        low, high = self._bent(self.low), self._bent(self.high)
        bent = low + at * (high - low)
        return math.exp(bent) if self.log else bent

    def _bent(self, value: float) -> float:
        return math.log(max(value, self.low)) if self.log else value

    def ticks(self, most: int = MOST_TICKS) -> list[Tick]:
        """Return round numbers inside the axis, `most` of them or fewer."""
        if self.log:
            return [Tick(self.at(value), f"{value:.10g}") for value in _log_rounds(self.low, self.high, most)]
        rounds = _rounds(self.low, self.high, most)
        step = rounds[1] - rounds[0] if len(rounds) > 1 else 1.0
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        return [Tick(self.at(value), f"{value + 0.0:.{places}f}") for value in rounds]


def scale_of(values: Sequence[float], *, log: bool | None = None, margin: float = 0.03) -> Scale:
    """Return an axis that holds all values, with a margin at both ends.

    Args:
        values: One or more; above zero where the axis is logarithmic.
        log: Whether it is logarithmic; None decides by how far apart the values lie.
        margin: The part of the axis that is left free at each end.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low > WIDE
    if high <= low:
        low, high = (low * 0.9, low * 1.1) if low > 0 else (low - 1.0, low + 1.0)
    if log:
        spare = (high / low) ** margin
        return Scale(low / spare, high * spare, True)
    spare = (high - low) * margin
    return Scale(max(0.0, low - spare) if low >= 0 else low - spare, high + spare)


def _rounds(low: float, high: float, most: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def _log_rounds(low: float, high: float, most: int) -> list[float]:
    """Return powers of ten and what lies between, as many as there is room for; less than a decade may need more."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= most:
            break
    every = -(-len(found) // most)
    return found[::every] if len(found) > 1 else _rounds(low, high, most)
