"""Measure artifacts, and say whether the figures can be trusted: the public names of the package `measurement`."""

from __future__ import annotations

from edgeferry_runtime.measurement.compare import (
    Comparison,
    Side,
    compare,
    compare_profiles,
    has_samples,
    pool,
    pool_warnings,
)
from edgeferry_runtime.measurement.fresh import bench_fresh
from edgeferry_runtime.measurement.local import bench
from edgeferry_runtime.measurement.marks import Mark, conditions, steadiness
from edgeferry_runtime.measurement.operators import OperatorTimes, operators, operators_fresh
from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.measurement.run import measure
from edgeferry_runtime.measurement.statistics import median_interval, summarize
from edgeferry_runtime.measurement.sweep import Sweep, sweep

__all__ = [
    "BenchOptions",
    "Comparison",
    "Mark",
    "OperatorTimes",
    "Side",
    "Sweep",
    "bench",
    "bench_fresh",
    "compare",
    "compare_profiles",
    "conditions",
    "has_samples",
    "measure",
    "median_interval",
    "operators",
    "operators_fresh",
    "pool",
    "pool_warnings",
    "steadiness",
    "summarize",
    "sweep",
]
