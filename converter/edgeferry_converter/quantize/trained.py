"""Trained ranges find their tensors by value, so that no format has to keep the names of layers.

A layer is known by five figures of its float output over the samples that lie beside the ranges: lowest and highest
value, mean, mean square, and how many values a sample has. They do not depend on the layout, so a convolution of
PyTorch is found again in a TFLite file. All tensors of the same values (a flattened one too) take the range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edgeferry_converter.quantize.calibration.methods import Range
from edgeferry_converter.quantize.calibration.observer import Statistics

TOLERANCE = 1e-3
"""Largest relative difference between the figures of a layer and those of its tensor: what TF32 and fusing change."""
SAME = 1e-5
"""Two layers that are as near to a tensor as this have the same values."""
CLEARLY = 10.0
"""A layer is the nearest where the next one is so many times farther away."""


class Known(Protocol):
    """What an activation is known by: `edgeferry_converter.compress.grid.Moments`, or what an observer has seen."""

    @property
    def low(self) -> float:
        """Smallest value."""
        ...

    @property
    def high(self) -> float:
        """Largest value."""
        ...

    @property
    def mean(self) -> float:
        """Of all values."""
        ...

    @property
    def square(self) -> float:
        """Mean of their squares."""
        ...

    @property
    def count(self) -> int:
        """How many values a sample has."""
        ...


@dataclass(frozen=True)
class Matched:
    """Which tensors took which trained ranges.

    Attributes:
        ranges: Lowest and highest value by tensor.
        tensors: By layer, the tensors that took its range; empty where none did.
        ambiguous: By tensor, the layers that it may be of, whose ranges differ; it takes none of them.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """The layers whose range found no tensor."""
        return tuple(layer for layer, tensors in self.tensors.items() if not tensors)

    def warnings(self) -> tuple[str, ...]:
        """Say what did not find its place."""
        found = [
            f"tensor {name!r} may be of {' or of '.join(map(repr, layers))}, whose trained ranges differ: "
            "it is calibrated"
            for name, layers in self.ambiguous.items()
        ]
        if self.missing:
            named = ", ".join(self.missing)
            found.insert(0, f"{len(self.missing)} of {len(self.tensors)} trained ranges found no tensor: {named}")
        return tuple(found)


def match(ranges: Mapping[str, Range], moments: Mapping[str, Known], seen: Statistics) -> Matched:
    """Give each tensor the range of the layer that it is the output of.

    Args:
        ranges: By layer, what training settled.
        moments: By layer, over the samples; a layer without them finds no tensor.
        seen: The tensors of the float artifact over the same samples, with their moments.
    """
    taken: dict[str, Range] = {}
    tensors: dict[str, tuple[str, ...]] = dict.fromkeys(ranges, ())
    ambiguous: dict[str, tuple[str, ...]] = {}
    known = {layer: figures for layer, figures in moments.items() if layer in ranges}
    for name, observer in seen.tensors.items():
        layers = nearest(observer.figures(seen.samples), known)
        if layers and all(_equal(ranges[layer], ranges[layers[0]]) for layer in layers):
            taken[name] = ranges[layers[0]]
            for layer in layers:
                tensors[layer] = (*tensors[layer], name)
        elif layers:
            ambiguous[name] = layers
    return Matched(taken, tensors, ambiguous)


def nearest(tensor: Known, layers: Mapping[str, Known]) -> tuple[str, ...]:
    """Return the layer that a tensor is the output of, with those that cannot be told from it; the nearest first.

    Args:
        tensor: Of the artifact.
        layers: By name.
    """
    distances = {layer: distance(tensor, figures) for layer, figures in layers.items()}
    near = sorted((layer for layer in distances if distances[layer] <= TOLERANCE), key=lambda layer: distances[layer])
    if not near:
        return ()
    limit = max(SAME, CLEARLY * distances[near[0]])
    return tuple(layer for layer in near if distances[layer] <= limit)


def distance(a: Known, b: Known) -> float:
    """Return the largest relative difference of the figures of two activations; infinite where their counts differ.

    The extremes are compared relative to the largest magnitude, the mean relative to the root mean square.
    """
    if a.count != b.count:
        return math.inf
    peak = max(abs(a.low), abs(a.high), abs(b.low), abs(b.high))
    if peak == 0:
        return 0.0
    rms = math.sqrt(a.square), math.sqrt(b.square)
    largest = max(*rms, 1e-30)
    extremes = max(abs(a.low - b.low), abs(a.high - b.high)) / peak
    return max(extremes, abs(a.mean - b.mean) / largest, abs(rms[0] - rms[1]) / largest)


def _equal(a: Range, b: Range) -> bool:
    width = max(a[1] - a[0], b[1] - b[0])
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= TOLERANCE * width
