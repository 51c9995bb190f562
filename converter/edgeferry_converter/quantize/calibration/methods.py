"""The methods that make a range of what was seen of an activation.

=================  ====================================================================================================
``min-max``        the true extremes over all samples
``moving-average`` of each sample's extremes: what is rare is clipped, and the order of samples matters
``percentile``     the middle 99.99 % of all values
``mse``            the range of the least squared error: rounding inside it, clipping outside
``entropy``        the range whose quantized distribution is nearest to the true one in Kullback-Leibler divergence
=================  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeferry_converter.quantize.calibration.histogram import Histogram
from edgeferry_converter.quantize.calibration.observer import Observer, Statistics
from edgeferry_runtime.tensors import Array

Range = tuple[float, float]

PERCENTILE = 0.9999
CANDIDATES = 128
"""Limits that are tried on each side of zero, each a fixed factor below the next."""
FARTHEST = 1024
"""The smallest limit that ``mse`` tries is this much smaller than the extreme."""
FLOOR = 1e-9
"""The share that a divergence gives to a bin which the quantized distribution leaves empty."""


def ranges(statistics: Statistics, method: str, levels: int = 256) -> dict[str, Range]:
    """Make a range of every tensor.

    Args:
        statistics: What was seen; with histograms, where the method needs them.
        method: One of `METHODS`.
        levels: How many steps a quantized range has: 256 of int8.

    Returns:
        Lowest and highest value by tensor name, within the extremes that were seen.
    """
    return {name: METHODS[method](observer, levels) for name, observer in statistics.tensors.items()}


def min_max(observer: Observer, levels: int = 256) -> Range:
    """Return the true extremes."""
    return observer.low, observer.high


def moving_average(observer: Observer, levels: int = 256) -> Range:
    """Return the moving averages of each sample's extremes, as ai-edge-quantizer calibrates by itself."""
    return observer.average or (observer.low, observer.high)


def percentile(observer: Observer, levels: int = 256) -> Range:
    """Return a range that holds at least `PERCENTILE` of all values, and as much on either side."""
    histogram = _histogram(observer)
    centers, counts = histogram.bins()
    at = int(np.searchsorted(centers, 0))
    centers, counts = np.insert(centers, at, 0.0), np.insert(counts, at, histogram.zeros)
    below = np.cumsum(counts)
    tail = (1 - PERCENTILE) / 2 * below[-1]
    first = int(np.searchsorted(below, tail, side="right"))
    last = int(np.searchsorted(below, below[-1] - tail, side="left"))
    half = histogram.width / 2
    return max(observer.low, float(centers[first] - half)), min(observer.high, float(centers[last] + half))


def mse(observer: Observer, levels: int = 256) -> Range:
    """Return the range of the least expected squared error.

    A value inside costs step²/12, the variance of rounding; a value outside the square of its distance from the
    limit; an exact zero costs nothing. Every pair of candidates is tried, by sums over the bins below each.
    """
    centers, counts = _histogram(observer).bins()
    low, high = _candidates(-observer.low)[:, np.newaxis] * -1, _candidates(observer.high)[np.newaxis]
    under, clipped_under = _outside(-centers[::-1], counts[::-1], -low)
    over, clipped_over = _outside(centers, counts, high)
    step = (high - low) / (levels - 1)
    cost = step**2 / 12 * (counts.sum() - under - over) + clipped_under + clipped_over
    row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return _within(observer, float(low[row, 0]), float(high[0, column]))


def _candidates(extreme: float) -> Array:
    """Return limits from the extreme down; only zero where nothing lies on this side of it."""
    return extreme * np.geomspace(1, 1 / FARTHEST, CANDIDATES) if extreme > 0 else np.zeros(1)


def _outside(centers: Array, counts: Array, limits: Array) -> tuple[Array, Array]:
    """Return how many values lie above each limit, and the sum of their squared distances from it."""
    sums = [np.append(np.cumsum((counts * centers**power)[::-1])[::-1], 0) for power in (0, 1, 2)]
    count, linear, square = (total[np.searchsorted(centers, limits, side="right")] for total in sums)
    return count, np.maximum(square - 2 * limits * linear + limits**2 * count, 0)


def entropy(observer: Observer, levels: int = 256) -> Range:
    """Return the range whose quantized distribution diverges least from the true one.

    After TensorRT's calibration (Migacz, "8-bit inference with TensorRT", 2017), for ranges that need not be
    symmetric: first the upper limit is sought, then the lower. No range is narrower than one bin a step; where the
    bins are too few for that, it is `min_max`. Exact zeros take no part.
    """
    histogram = _histogram(observer)
    used = np.flatnonzero(histogram.counts)
    zero = -histogram.first
    first, last = min(int(used[0]) if used.size else zero, zero), max(int(used[-1]) + 1 if used.size else zero, zero)
    counts = histogram.counts[first:last].astype(np.float64)
    begin, end, zero = 0, len(counts), zero - first
    stops = _stops(max(zero + 1, levels), end) if end > zero else [end]
    end = min(stops, key=lambda stop: _divergence(counts, begin, stop, levels))
    starts = [end - size for size in _stops(max(end - zero + 1, levels), end)] if zero > 0 else [0]
    begin = min(starts, key=lambda start: _divergence(counts, start, end, levels))
    edge = (histogram.first + first) * histogram.width
    return _within(observer, edge + begin * histogram.width, edge + end * histogram.width)


def _stops(smallest: int, largest: int) -> list[int]:
    """Return bins from the largest down to the smallest, each a fixed factor below the next."""
    if smallest >= largest:
        return [largest]
    return sorted({round(size) for size in np.geomspace(largest, smallest, CANDIDATES)}, reverse=True)


def _divergence(counts: Array, begin: int, end: int, levels: int) -> float:
    """Return the divergence, in nats, of a range's quantized distribution from that of the values clipped to it."""
    inside = counts[begin:end]
    if len(inside) <= levels:
        return 0.0 if len(inside) == len(counts) else np.inf
    clipped = inside.copy()
    clipped[0] += counts[:begin].sum()
    clipped[-1] += counts[end:].sum()
    starts = np.arange(levels) * len(inside) // levels
    sizes = np.diff(np.append(starts, len(inside)))
    filled = np.add.reduceat((clipped > 0).astype(np.float64), starts)
    level = np.add.reduceat(inside, starts) / np.maximum(filled, 1)
    some = clipped > 0
    true = clipped[some] / clipped.sum()
    quantized = np.repeat(level, sizes)[some]
    quantized = np.maximum(quantized / max(quantized.sum(), 1.0), FLOOR)
    return float(np.sum(true * np.log(true / quantized)))


def _within(observer: Observer, low: float, high: float) -> Range:
    return max(observer.low, low), min(observer.high, high)


def _histogram(observer: Observer) -> Histogram:
    assert observer.histogram is not None, "the pass over the samples kept no histograms"
    return observer.histogram


METHODS: dict[str, Callable[[Observer, int], Range]] = {
    "min-max": min_max,
    "moving-average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""Every method by its name, the default first."""
AUTO = "auto"
"""Stands for the method of `METHODS` whose artifact has the best outputs."""
WITHOUT_HISTOGRAM = ("min-max", "moving-average")
