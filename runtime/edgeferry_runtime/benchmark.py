"""Measure artifacts, and say whether the figures can be trusted: the public names of the package `measurement`."""

from __future__ import annotations

from edgeferry_runtime.measurement.compare import Comparison, compare, compare_profiles
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
    "Sweep",
    "bench",
    "bench_fresh",
    "compare",
    "compare_profiles",
    "conditions",
    "measure",
    "median_interval",
    "operators",
    "operators_fresh",
    "steadiness",
    "summarize",
    "sweep",
]
