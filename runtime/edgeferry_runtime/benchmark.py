"""Measure artifacts, and say whether the figures can be trusted: the public names of the package `measurement`."""

from __future__ import annotations

from edgeferry_runtime.measurement.fresh import bench_fresh
from edgeferry_runtime.measurement.local import bench
from edgeferry_runtime.measurement.marks import Mark, conditions, steadiness
from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.measurement.run import measure
from edgeferry_runtime.measurement.statistics import median_interval, summarize

__all__ = [
    "BenchOptions",
    "Mark",
    "bench",
    "bench_fresh",
    "conditions",
    "measure",
    "median_interval",
    "steadiness",
    "summarize",
]
