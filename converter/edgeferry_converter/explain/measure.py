"""The error of each tensor, float against quantized, in groups that fit into memory.

`accumulated` is the quantized run against the float run: what the tensor's layer and all before it have lost.
`own` is what the one layer loses: in its quantized form it is fed what the float run computed for its inputs,
rounded as it stores them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeferry_converter.explain.network import Network, Program, Stored
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.tensors import Array

GROUP_BYTES = 64 * 2**20
"""Float activations that are held at once, at most."""

TYPICAL = (0.1, 99.9)
"""Percentiles between which the typical values of one sample lie."""


@dataclass
class Sums:
    """The distance of one tensor from its reference, summed over samples."""

    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0

    def add(self, reference: Array, actual: Array) -> None:
        """Count one sample; places where the reference is not finite count for nothing."""
        finite = np.isfinite(reference)
        ref, act = (np.where(finite, v, 0).astype(np.float64).ravel() for v in (reference, actual))
        diff = act - ref
        self.signal += float(ref @ ref)
        self.noise += float(diff @ diff)
        self.power += float(act @ act)
        self.product += float(ref @ act)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in decibels; inf where equal."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 for two zero tensors."""
        norm = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.product / norm if norm else float(self.noise == 0)


@dataclass
class Seen:
    """What was seen of one tensor over all samples.

    Attributes:
        accumulated: Quantized run against float run.
        own: What its layer adds; None where the layer could not be run alone.
        low: Lowest value of the float run.
        high: Highest value.
        lows: The value that all but 0.1 % of one sample's values exceed, for each sample.
        highs: The value that all but 0.1 % of them stay below.
        channels: Largest absolute value of each channel; empty where there is one channel.
        clipped: Share of the float run's values that lie outside of what the tensor's storage can hold.
    """

    accumulated: Sums = field(default_factory=Sums)
    own: Sums | None = None
    low: float = math.inf
    high: float = -math.inf
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    channels: Array = field(default_factory=lambda: np.zeros(0))
    clipped: float = 0.0

    @property
    def typical(self) -> tuple[float, float]:
        """The range of the typical sample, without its outermost values: the median over samples."""
        return (float(np.median(self.lows)), float(np.median(self.highs))) if self.lows else (0.0, 0.0)

    def add(self, reference: Array, axis: int, stored: Stored | None, weight: float) -> None:
        """Count one sample of the float run, which is a share `weight` of all."""
        finite = reference[np.isfinite(reference)]
        if not finite.size:
            return
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        for ends, value in zip((self.lows, self.highs), np.percentile(finite, TYPICAL), strict=True):
            ends.append(float(value))
        if reference.ndim > 1 and finite.size == reference.size:
            peaks = np.abs(np.moveaxis(reference, axis, 0).reshape(reference.shape[axis], -1)).max(axis=1)
            self.channels = np.maximum(self.channels, peaks) if self.channels.shape == peaks.shape else peaks
        if stored is not None:
            low, high = stored.limits()
            slack = (high - low) / 256
            self.clipped += weight * float(np.mean((finite < low - slack) | (finite > high + slack)))


class Measures:
    """The errors of the tensors that two networks share, measured group by group when first asked for.

    Args:
        float_network: The truth.
        quantized: What it became.
        feeds: Real values by input name, one mapping a sample.
        channel_axis: Where channels lie: -1 in TFLite, 1 in ONNX.

    Attributes:
        names: The tensors, in order of execution.
    """

    def __init__(
        self, float_network: Network, quantized: Network, feeds: Sequence[Mapping[str, Array]], channel_axis: int
    ) -> None:
        self._float, self._quantized, self._feeds, self._axis = float_network, quantized, feeds, channel_axis
        there = set(quantized.activations())
        self.names = tuple(name for name in float_network.activations() if name in there)
        self._groups = list(_groups(self.names, float_network.size))
        self._seen: dict[str, Seen] = {}

    def __getitem__(self, name: str) -> Seen:
        if name not in self._seen:
            group = next(group for group in self._groups if name in group)
            self._seen.update(self._measure(group))
        return self._seen[name]

    def measured(self) -> dict[str, Seen]:
        """Return what has been measured so far, in order of execution."""
        return {name: self._seen[name] for name in self.names if name in self._seen}

    def of_inputs(self) -> dict[str, Seen]:
        """Return the ranges of the float inputs, by tensor name."""
        seen: dict[str, Seen] = {}
        for feeds in self._feeds:
            for name, value in feeds.items():
                if value.dtype.kind == "f":
                    seen.setdefault(self._float.inputs[name], Seen()).add(value, self._axis, None, 0.0)
        return seen

    def _measure(self, group: Sequence[str]) -> dict[str, Seen]:
        alone = self._alone(group)
        inputs = [name for name in alone.reads if name in self.names] if alone else []
        truth = self._float.program(tuple(dict.fromkeys([*group, *inputs])), set(self._float.inputs.values()))
        whole = self._quantized.program(group, set(self._quantized.inputs.values()))
        seen = {name: Seen(own=Sums() if alone else None) for name in group}
        for feeds in self._feeds:
            fed = {network.inputs[name]: v for network in (self._float, self._quantized) for name, v in feeds.items()}
            expected = truth(fed)
            actual = whole(fed)
            own = alone({**fed, **expected}) if alone else {}
            for name, found in seen.items():
                found.add(expected[name], self._axis, self._quantized.stored(name), 1 / len(self._feeds))
                found.accumulated.add(expected[name], actual[name])
                if found.own is not None:
                    found.own.add(expected[name], own[name])
        return seen

    def _alone(self, group: Sequence[str]) -> Program | None:
        """Cut the group's layers out; None where the engine cannot run them so."""
        try:
            return self._quantized.program(group, {*self.names, *self._quantized.inputs.values()})
        except EngineError:
            return None


def _groups(names: Iterable[str], size: Callable[[str], int]) -> Iterator[tuple[str, ...]]:
    """Split tensors, in order of execution, into groups that fit into memory; a huge one is a group of its own."""
    group: list[str] = []
    for name in names:
        if group and sum(map(size, group)) + size(name) > GROUP_BYTES:
            yield tuple(group)
            group = []
        group.append(name)
    if group:
        yield tuple(group)


def first_below(names: Sequence[str], below: Callable[[str], bool]) -> str | None:
    """Find by bisection a tensor that is below the threshold while the one before it is not.

    Where the error only grows along the way it is the first of all. `below` is asked for the last one, and for as
    many as the number of tensors has binary digits.

    Returns:
        Its name; None where the last tensor is not below.
    """
    if not names or not below(names[-1]):
        return None
    good, bad = -1, len(names) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if below(names[middle]) else (middle, bad)
    return names[bad]
