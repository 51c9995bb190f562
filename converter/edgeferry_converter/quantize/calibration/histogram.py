"""A histogram in bounded memory, whose range grows with the data."""

from __future__ import annotations

import math

import numpy as np

from edgeferry_runtime.tensors import Array

BINS = 8192
"""At least half of them lie in the range of the data and zero: 16 or more for each of 256 steps; 64 KiB a tensor."""
SMALLEST = -120
"""Exponent of the narrowest bin: values below it are zero for every quantizer."""


class Histogram:
    """Counts of values in bins of one width, a power of two; every bin's edge is a multiple of the width.

    Where a value lies outside, the width doubles until it fits, and pairs of bins become one. The edges of the
    wider bins are edges of the narrower ones too, so nothing is split: no count is lost or moved, and the result
    does not depend on the order of the values.

    Attributes:
        zeros: Exact zeros are counted apart: every quantizer represents them without error.
        counts: int64 of [BINS].
        exponent: Of the width, 2**exponent.
        first: The lower edge of the first bin, in widths.
    """

    def __init__(self) -> None:
        self.zeros = 0
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = SMALLEST
        self.first = -BINS // 2

    @property
    def width(self) -> float:
        """The width of a bin, in the unit of the values."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self.zeros + int(self.counts.sum())

    def add(self, values: Array) -> None:
        """Count values: finite, of any shape."""
        some = values[values != 0]
        self.zeros += values.size - some.size
        if some.size:
            self._reach(min(0.0, float(some.min())), max(0.0, float(some.max())))
            index = self._indices(some).astype(np.int64) - self.first
            self.counts += np.bincount(index, minlength=BINS)

    def bins(self) -> tuple[Array, Array]:
        """Return the centers of the bins that are not empty, ascending, and their counts; zeros are not in them."""
        used = np.flatnonzero(self.counts)
        return (used + self.first + 0.5) * self.width, self.counts[used]

    def _indices(self, values: Array) -> Array:
        """Return the bins of values, counted in widths from zero, as whole float64."""
        scaled = np.multiply(values.ravel(), math.ldexp(1.0, -self.exponent), dtype=np.float64)
        return np.floor(scaled)

    def _reach(self, low: float, high: float) -> None:
        """Let the bins reach over a range that holds zero: with the narrowest width that does."""
        lowest, highest = self._indices(np.array([low, high]))
        if self.first <= lowest and highest < self.first + BINS:
            return
        used = np.flatnonzero(self.counts)
        held, counts, before = used + self.first, self.counts[used], self.exponent
        if held.size:
            low, high = min(low, float(held[0]) * self.width), max(high, float(held[-1]) * self.width)
        self.exponent = max(self.exponent, math.frexp(high - low)[1] - BINS.bit_length())
        while (span := self._span(low, high)) > BINS:
            self.exponent += 1
        self.first = int(self._indices(np.array([low]))[0]) - (BINS - span) // 2
        self.counts = np.zeros(BINS, np.int64)
        np.add.at(self.counts, (held >> min(self.exponent - before, 62)) - self.first, counts)

    def _span(self, low: float, high: float) -> int:
        lowest, highest = self._indices(np.array([low, high]))
        return int(highest - lowest) + 1
