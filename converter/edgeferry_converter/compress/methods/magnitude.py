"""Which values of kernels are the smallest: exact counts, and the same answer for the same values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Pool:
    """Kernels that lose values together, the smallest first, whichever kernel they are in.

    Attributes:
        caps: By kernel, the most values that it may lose.
        target: How many the pool loses in the end.
        initial: How many at first.
    """

    caps: Mapping[str, int]
    target: int
    initial: int = 0

    @property
    def most(self) -> int:
        """The most values that the pool can lose."""
        return sum(self.caps.values())

    def count(self, level: float) -> int:
        """Return how many values are lost at a level from 0 to 1."""
        return round(self.initial + (self.target - self.initial) * level)


def smallest(sizes: Array, count: int) -> Array:
    """Return the `count` smallest values as booleans of the same shape; of equal ones the first."""
    flat = sizes.ravel()
    if count <= 0:
        return np.zeros(sizes.shape, bool)
    border = np.partition(flat, count - 1)[count - 1]
    found: Array = flat < border
    found[np.flatnonzero(flat == border)[: count - int(found.sum())]] = True
    return found.reshape(sizes.shape)


def masks(pool: Pool, sizes: Mapping[str, Array], count: int) -> dict[str, Array]:
    """Return for each kernel of a pool what stays, when `count` values go.

    Args:
        pool: The kernels, with what each may lose.
        sizes: By kernel, how large each value is.
        count: At most `Pool.most`.
    """
    names = list(pool.caps)
    if len(names) == 1:
        return {names[0]: ~smallest(sizes[names[0]], count)}
    able = [np.where(smallest(sizes[n], pool.caps[n]), sizes[n], np.inf).ravel() for n in names]
    lost = np.split(smallest(np.concatenate(able), count), np.cumsum([len(one) for one in able])[:-1])
    return {name: ~one.reshape(sizes[name].shape) for name, one in zip(names, lost, strict=True)}
