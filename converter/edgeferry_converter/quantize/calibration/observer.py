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
class Observer:
    """One activation, over all samples so far.

    Attributes:
        low: The smallest value.
        high: The largest value.
        average: Moving averages of each sample's smallest and largest value.
        dimensions: How many dimensions the tensor has.
        histogram: Of all values, where a method needs it.
    """

    low: float = np.inf
    high: float = -np.inf
    average: tuple[float, float] | None = None
    dimensions: int = 0
    histogram: Histogram | None = None

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


@dataclass
class Statistics:
    """All activations of a float model, over all samples so far.

    Attributes:
        histograms: Whether histograms are kept: all methods but ``min-max`` and ``moving-average`` need them.
        samples: How many samples were seen.
        tensors: By the tensor's name; only those that took a finite value.
        inputs: What layers were fed, by the name of their weights, where rounding needs it.
    """

    histograms: bool = False
    samples: int = 0
    tensors: dict[str, Observer] = field(default_factory=dict)
    inputs: Mapping[str, Moments] = field(default_factory=dict)

    def observe(self, name: str, values: Array) -> None:
        """Take the values of one tensor in one sample."""
        observer = self.tensors.get(name) or Observer(
            dimensions=values.ndim, histogram=Histogram() if self.histograms else None
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
) -> Statistics:
    """Run a float model over all samples and keep what a calibration method needs of every activation.

    Args:
        activations: Runs one sample.
        samples: What the model is fed, by input name.
        histograms: Whether histograms are kept.
        inputs: Keeps what layers are fed, where that is wanted.

    Raises:
        DataError: If there are no samples.
    """
    statistics = Statistics(histograms, inputs=inputs.moments if inputs else {})
    for sample in samples:
        statistics.samples += 1
        for name, values in activations(sample):
            statistics.observe(name, values)
            if inputs:
                inputs.observe(name, values)
    if not statistics.samples:
        raise DataError("--calibrate", "holds no samples", "give at least one")
    return statistics
