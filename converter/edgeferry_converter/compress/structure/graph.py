"""Which parts of which stored values are one channel.

A tracer gives every channel of every tensor a number. What adds two tensors makes their channels one, what
concatenates them puts the numbers one behind the other, what flattens a picture repeats them. In the end each class of
united numbers can be removed together, from everything that made it or takes it: residuals, depthwise kernels,
normalization and concatenation need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgeferry_runtime.tensors import Array

CHANNEL, HEAD = "channels", "heads"
MODEL_INPUT, MODEL_OUTPUT = "it is an input of the model", "it is an output of the model"
"""Why the channels at the model's borders are frozen: no layer is to blame for it."""


@dataclass(frozen=True)
class Use:
    """An axis of a stored value, index by index.

    Attributes:
        parameter: The value's name, as `Network.state` has it.
        axis: The axis.
        ids: Of [size of the axis]: the channel that each index belongs to.
        role: ``output`` (the kernel makes the channel), ``input`` (it takes the channel), ``scale`` (normalization's
            factor) or ``other`` (biases, offsets, statistics).
    """

    parameter: str
    axis: int
    ids: Array
    role: str


@dataclass(frozen=True)
class Cost:
    """The multiply-accumulates of one layer for one sample, which fall with what it takes and makes.

    Attributes:
        layer: Its name.
        macs: As it is now.
        inputs: The channels that it takes; None where their number does not matter (depthwise).
        outputs: The channels that it makes.
    """

    layer: str
    macs: int
    inputs: Array | None
    outputs: Array


@dataclass
class ChannelGraph:
    """What a tracer found; it is filled by `new`, `unite`, `freeze` and the lists.

    Attributes:
        uses: Every axis of a stored value that has channels.
        costs: Of every layer that multiplies.
        layers: By name of a layer that makes channels, their numbers: what may be asked to become smaller.
        kinds: Of those that are not `CHANNEL`: `HEAD`.
        frozen: By number, why a channel must stay; it holds for all that are united with it.
        kept: By layer, why nothing of it can be removed at all, such as ``its kind is not known``.
        repeated: Stored values that are others under a second name, and take no room of their own.
    """

    uses: list[Use] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    layers: dict[str, Array] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    frozen: dict[int, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    _parents: list[int] = field(default_factory=list)

    def new(self, count: int) -> Array:
        """Return `count` numbers that were not there before."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        """Return the number that stands for the class of a channel."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def roots(self, numbers: Iterable[int] | Array) -> Array:
        """Return the class of each channel."""
        return np.array([self.root(int(number)) for number in numbers], dtype=np.int64)

    def unite(self, left: Array, right: Array) -> None:
        """Make channels one, pair by pair: of what is added, multiplied or compared element by element."""
        for a, b in zip(left, right, strict=True):
            self._parents[self.root(int(a))] = self.root(int(b))

    def without(self, state: Mapping[str, Array], roots: Collection[int]) -> dict[str, Array]:
        """Return stored values without what belongs to some classes.

        Args:
            state: Every stored value, as `Network.state` names them.
            roots: The classes.
        """
        found = dict(state)
        for use in self.uses:
            stays = ~np.isin(self.roots(use.ids), list(roots))
            found[use.parameter] = np.compress(stays, found[use.parameter], axis=use.axis)
        return found

    def freeze(self, numbers: Iterable[int] | Array, reason: str) -> None:
        """Say that channels must stay, such as those of the model's outputs."""
        for number in numbers:
            self.frozen.setdefault(int(number), reason)
