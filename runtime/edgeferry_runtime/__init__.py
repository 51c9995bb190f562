"""Edgeferry's runtime: loads artifacts, runs them and measures them. It needs numpy and click, nothing else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BenchOptions": "benchmark",
    "Bundle": "bundle",
    "EdgeferryError": "errors",
    "Model": "model",
    "Profile": "profile",
    "TensorSpec": "tensors",
    "bench": "benchmark",
    "load": "model",
}

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions, bench
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.errors import EdgeferryError
    from edgeferry_runtime.model import Model, load
    from edgeferry_runtime.profile import Profile
    from edgeferry_runtime.tensors import TensorSpec

__all__ = ["BenchOptions", "Bundle", "EdgeferryError", "Model", "Profile", "TensorSpec", "__version__", "bench", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
