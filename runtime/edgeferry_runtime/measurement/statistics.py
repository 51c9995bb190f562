"""What samples say: percentiles, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeferry_runtime.tensors import Array

RESAMPLES = 10_000
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""The 97.5th percentile of Student's t with 1, 2, … degrees of freedom."""


def summarize(samples: Array, seed: int = 0) -> dict[str, Any]:
    """Return the figures of a profile that describe its samples.

    Args:
        samples: Milliseconds, float64 of [runs].
        seed: Of the confidence interval.
    """
    p5, median, p90, p95, p99 = (float(p) for p in np.percentile(samples, (5, 50, 90, 95, 99)))
    return {
        "mean_ms": float(samples.mean()),
        "stddev_ms": float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        "p5_ms": p5,
        "median_ms": median,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        "median_ms_ci95": median_interval(samples, seed),
    }


def median_interval(samples: Array, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, by the percentile bootstrap.

    Args:
        samples: float64 of [runs].
        seed: Of the resampling.
    """
    low, high = np.percentile(_medians(np.sort(samples), RESAMPLES, np.random.default_rng(seed)), (2.5, 97.5))
    return float(low), float(high)


def _medians(ordered: Array, count: int, generator: np.random.Generator) -> Array:
    """Return the medians of so many resamples, drawn at once.

    The median of n draws from n samples is the sample whose rank is n times the median of n uniform numbers,
    which is Beta((n + 1) / 2, (n + 1) / 2) distributed (exactly so for odd n).

    Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", section 3; Maritz and Jarrett 1978.
    """
    n = len(ordered)
    ranks = n * generator.beta((n + 1) / 2, (n + 1) / 2, count)
    medians: Array = ordered[np.minimum(ranks.astype(np.int64), n - 1)]
    return medians


def ratio_interval(first: Sequence[Array], second: Sequence[Array], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the ratio of the second's median to the first's, and its 95 % confidence interval.

    Each side is one or more processes, which differ among themselves (memory layout, clock) more than the runs
    inside one do. So processes are resampled first, then the runs of each; a side's median is the median of its
    processes' medians. A few processes know little about how processes differ: the interval is widened for that as
    Student's t is wider than the normal distribution. With one process a side, only the runs are resampled.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 8; Hesterberg 2015, "What Teachers
    Should Know About the Bootstrap", section 5.3 (the expanded percentile interval).

    Args:
        first: For each process its samples, float64 of [runs].
        second: The same of what is compared with it.
        seed: Of the resampling.
    """
    generator = np.random.default_rng(seed)
    point = float(_middle(second) / _middle(first))
    ratios = _side(second, generator) / _side(first, generator)
    tail = _tail(min(len(first), len(second)))
    low, high = np.percentile(ratios, (tail, 100 - tail))
    return point, (min(float(low), point), max(float(high), point))


def side_interval(processes: Sequence[Array], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the median over processes and its 95 % confidence interval; see `ratio_interval`."""
    point, tail = float(_middle(processes)), _tail(len(processes))
    low, high = np.percentile(_side(processes, np.random.default_rng(seed)), (tail, 100 - tail))
    return point, (min(float(low), point), max(float(high), point))


def _middle(processes: Sequence[Array]) -> Any:
    return np.median([np.median(samples) for samples in processes])


def _side(processes: Sequence[Array], generator: np.random.Generator) -> Array:
    """Return medians of resampled processes of resampled runs, float64 of [RESAMPLES]."""
    count = len(processes)
    drawn = np.stack([_medians(np.sort(s), RESAMPLES * count, generator).reshape(RESAMPLES, count) for s in processes])
    chosen = generator.integers(0, count, (RESAMPLES, count))
    medians: Array = np.median(np.take_along_axis(drawn, chosen[None], 0)[0], axis=1)
    return medians


def _tail(processes: int) -> float:
    """Return the percentile to cut off on each side, for so many processes."""
    if processes < 2:
        return 2.5
    t = T_975[processes - 2] if processes - 2 < len(T_975) else 1.96
    return 50 * math.erfc(t * math.sqrt(processes / (processes - 1)) / math.sqrt(2))
