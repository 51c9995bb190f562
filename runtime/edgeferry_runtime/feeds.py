"""Inputs for a model that nobody gave any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.measurement.options import BenchOptions


def _zeros(spec: TensorSpec) -> Array:
    """Return zeros, or empty texts."""
    return np.full(_shape(spec), "" if spec.dtype == "object" else 0, spec.dtype)


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if dim < 0 else dim for dim in spec.shape)


def zero_feeds(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return stored zeros for each input, dynamic dimensions being 1."""
    return {spec.name: _zeros(spec) for spec in specs}


def random_feeds(specs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Array]:
    """Return seeded random real values in the range that each input declares, dynamic dimensions being 1.

    Args:
        specs: The inputs. A quantized one declares its whole range, an 8-bit one that of its dtype; a float is
            taken to be 0 to 1, and a wider integer, which is likely an index, 0 or 1.
        seed: Of the generator.

    Returns:
        Arrays by input name: float32 for a quantized input, else of the input's dtype.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _random(spec, generator) for spec in specs}


def sample_feeds(specs: Sequence[TensorSpec], bundle: Bundle | None, options: BenchOptions) -> Mapping[str, Array]:
    """Return real values to measure with: a bundle's first probe sample, else `random_feeds`."""
    if bundle:
        probe = bundle.probe(options.signature)
        if len(probe):
            return next(probe.feeds())
    return random_feeds(specs, options.seed)


def _random(spec: TensorSpec, generator: np.random.Generator) -> Array:
    shape, dtype = _shape(spec), np.dtype(spec.dtype)
    if dtype.kind in "iu" and (spec.quantization or dtype.itemsize == 1):
        limits = np.iinfo(dtype)
        stored = generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return spec.quantization.dequantize(stored) if spec.quantization else stored
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "f":
        return generator.random(shape, np.float32).astype(dtype)
    return _zeros(spec)
