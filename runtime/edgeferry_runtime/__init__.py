"""Edgeferry's runtime: loads artifacts, runs them and measures them. It needs numpy and click, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions, bench, bench_fresh
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.errors import EdgeferryError
    from edgeferry_runtime.model import Model, load
    from edgeferry_runtime.pool import ModelPool
    from edgeferry_runtime.profile import Profile
    from edgeferry_runtime.tensors import TensorSpec

__all__ = [
    "BenchOptions",
    "Bundle",
    "EdgeferryError",
    "Model",
    "ModelPool",
    "Profile",
    "TensorSpec",
    "__version__",
    "bench",
    "bench_fresh",
    "load",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BenchOptions": "benchmark",
        "Bundle": "bundle",
        "EdgeferryError": "errors",
        "Model": "model",
        "ModelPool": "pool",
        "Profile": "profile",
        "TensorSpec": "tensors",
        "bench": "benchmark",
        "bench_fresh": "benchmark",
        "load": "model",
    },
)
