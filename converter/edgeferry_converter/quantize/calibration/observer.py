"""What is kept of the values that activations take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeferry_converter.quantize.calibration.histogram import Histogram
from edgeferry_converter.quantize.rounding import Moments
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array

LIMIT = 3e38
"""Values beyond it stand for infinity (a padding's minus infinity is one) and belong to no range."""
KEPT = 0.95
"""What a moving average keeps of itself with each sample: ai-edge-quantizer's own constant."""


@dataclass
class Sums:
    """Of the values of one activation, over all samples so far, in float64.

    Attributes:
        values: Of the values.
        squares: Of their squares.
        count: How many values there were.
    """

    values: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, values: Array) -> None:
        """Take the values of one sample."""
        wide = values.astype(np.float64)
        self.values += float(wide.sum())
        self.squares += float(np.square(wide).sum())
        self.count += wide.size


@dataclass(frozen=True)
class Figures:
    """What an activation is known by; see `edgeferry_converter.compress.grid.Moments`."""

    low: float
    high: float
    mean: float
    square: float
    count: int


@dataclass
class Observer:
    """One activation, over all samples so far.

    Attributes:
        low: The smallest value.
        high: The largest value.
        average: Moving averages of each sample's smallest and largest value.
        dimensions: How many dimensions the tensor has.
        histogram: Of all values, where a method needs it.
        sums: Of all values, where trained ranges are matched.
    """

    low: float = np.inf
    high: float = -np.inf
    average: tuple[float, float] | None = None
    dimensions: int = 0
    histogram: Histogram | None = None
    sums: Sums | None = None

    def observe(self, values: Array) -> None:
        """Take the values of one sample; NaN and what stands for infinity is passed over."""
        low, high = (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)
        if not (low > -LIMIT and high < LIMIT):
            values = values[np.abs(values) < LIMIT]
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.average or (low, high)
        self.average = KEPT * before[0] + (1 - KEPT) * low, KEPT * before[1] + (1 - KEPT) * high
        if self.histogram is not None:
            self.histogram.add(values)
        if self.sums is not None:
            self.sums.add(values)

    def figures(self, samples: int) -> Figures:
        """Return what the activation is known by, after so many samples; `sums` must have been kept."""
        assert self.sums is not None, "the pass over the samples kept no sums"
        sums = self.sums
        return Figures(
            self.low, self.high, sums.values / sums.count, sums.squares / sums.count, round(sums.count / samples)
        )


@dataclass
class Statistics:
    """All activations of a float model, over all samples so far.

    Attributes:
        histograms: Whether histograms are kept: all methods but ``min-max`` and ``moving-average`` need them.
        samples: How many samples were seen.
        tensors: By the tensor's name; only those that took a finite value.
        inputs: What layers were fed, by the name of their weights, where rounding needs it.
        sums: Whether sums are kept, which trained ranges are matched by.
    """

    histograms: bool = False
    samples: int = 0
    tensors: dict[str, Observer] = field(default_factory=dict)
    inputs: Mapping[str, Moments] = field(default_factory=dict)
    sums: bool = False

    def observe(self, name: str, values: Array) -> None:
        """Take the values of one tensor in one sample."""
        observer = self.tensors.get(name) or Observer(
            dimensions=values.ndim,
            histogram=Histogram() if self.histograms else None,
            sums=Sums() if self.sums else None,
        )
        observer.observe(values)
        if observer.average is not None:
            self.tensors[name] = observer


Activations = Callable[[Mapping[str, Array]], Iterable[tuple[str, Array]]]
"""Runs a float model on one sample and gives the name and values of each float activation."""


class Keeper(Protocol):
    """What keeps more of activations, for rounding."""

    moments: dict[str, Moments]

    def observe(self, name: str, values: Array) -> None:
        """Take the values of one tensor in one sample."""


def collect(
    activations: Activations,
    samples: Iterable[Mapping[str, Array]],
    histograms: bool,
    inputs: Keeper | None = None,
    sums: bool = False,
) -> Statistics:
    """Run a float model over all samples and keep what a calibration method needs of every activation.

    Args:
        activations: Runs one sample.
        samples: What the model is fed, by input name.
        histograms: Whether histograms are kept.
        inputs: Keeps what layers are fed, where that is wanted.
        sums: Whether sums are kept.

    Raises:
        DataError: If there are no samples.
    """
    statistics = Statistics(histograms, inputs=inputs.moments if inputs else {}, sums=sums)
    for sample in samples:
        statistics.samples += 1
        for name, values in activations(sample):
            statistics.observe(name, values)
            if inputs:
                inputs.observe(name, values)
    if not statistics.samples:
        raise DataError("--calibrate", "holds no samples", "give at least one")
    return statistics
