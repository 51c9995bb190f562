"""What is trained on: labelled samples, in batches whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeferry_converter.compress.network import Batch, Network
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Lessons:
    """Labelled samples in memory.

    Attributes:
        inputs: By input name, of [samples, ...], of the input's dtype.
        truth: Class numbers of [samples], or target values of [samples, ...].
        taught: What a teacher said of each sample, as in `Batch`; of [samples, ...]. Anything that is indexed like an
            array will do, so that what is large need not lie in memory.
        facts: What the history says of the teacher; plain JSON.
        notes: What the user should know of the teacher, one sentence each.
    """

    inputs: Mapping[str, Array]
    truth: Array
    taught: Mapping[str, Array] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)

    def at(self, indices: Array) -> Batch:
        """Return some of the samples."""
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        return Batch(inputs, self.truth[indices], {name: values[indices] for name, values in self.taught.items()})

    def first(self, count: int) -> Lessons:
        """Return the first samples."""
        inputs = {name: values[:count] for name, values in self.inputs.items()}
        return replace(
            self, inputs=inputs, truth=self.truth[:count], taught={k: v[:count] for k, v in self.taught.items()}
        )

    def in_order(self, size: int) -> Batches:
        """Return all samples as batches, in their order."""
        return Batches(self, np.arange(len(self)), size)

    def shuffled(self, size: int, seed: int, epoch: int) -> Batches:
        """Return all samples as batches, in an order that depends on `seed` and `epoch` alone."""
        return Batches(self, np.random.default_rng((seed, epoch)).permutation(len(self)), size)


@dataclass(frozen=True)
class Batches:
    """Some samples, batch by batch; the last batch may be smaller."""

    lessons: Lessons
    order: Array
    size: int

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.size)

    def __getitem__(self, index: int) -> Batch:
        """Return one batch, counted from 0; it is made anew each time, so that no epoch lies in memory.

        Raises:
            IndexError: If there is none.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.lessons.at(self.order[index * self.size : (index + 1) * self.size])

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def predict(network: Network, inputs: Mapping[str, Array], output: str, size: int = 256) -> Array:
    """Run a network over samples in batches and return one output, of [samples, ...]."""
    found: list[Array] = []
    count = len(next(iter(inputs.values())))
    for begin in range(0, count, size):
        feeds = {name: values[begin : begin + size] for name, values in inputs.items()}
        found.append(network.predict(feeds)[output])
    return np.concatenate(found)
