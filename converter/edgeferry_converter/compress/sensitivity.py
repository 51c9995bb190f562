"""How much each layer can lose: it is pruned alone, without training, and the model is judged.

Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", 4.1 and figure 6.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress.lessons import Lessons, predict
from edgeferry_converter.compress.methods import check_number, magnitude
from edgeferry_converter.compress.network import Network, Weight
from edgeferry_converter.metrics import METRICS, SCORES, drop
from edgeferry_runtime.commands.output import table
from edgeferry_runtime.errors import UnknownNameError, UsageError

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
SCHEMA_VERSION = 1

Score = Callable[[Network, Lessons], float]
"""Judges a network by samples: the metric, in its unit."""


@dataclass(frozen=True)
class Scan:
    """How to scan.

    Attributes:
        metric: ``top1``, ``mse`` or ``auc``: says what a drop is.
        sparsities: The shares of zeros that each layer is tried with, rising, above 0 and below 1.
        samples: By how many samples the model is judged each time; of more, so many are drawn.
        seed: Of the draw.
    """

    metric: str = METRICS[0]
    sparsities: tuple[float, ...] = SPARSITIES
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UnknownNameError("metric", str(self.metric), METRICS)
        check_number("samples", self.samples, 1, 2**31, whole=True)
        object.__setattr__(self, "sparsities", tuple(self.sparsities))
        for sparsity in self.sparsities:
            check_number("sparsities", sparsity, 1e-6, 1 - 1e-6)
        if not self.sparsities or list(self.sparsities) != sorted(set(self.sparsities)):
            raise UsageError("sparsities", f"{list(self.sparsities)} do not rise", "give some, the smallest first")


@dataclass(frozen=True)
class Sensitivity:
    """What a scan found.

    Attributes:
        metric: What the model was judged by.
        samples: How many samples it was judged by.
        baseline: The score of the whole model.
        sparsities: What each layer was tried with.
        scores: By layer, in the order of the model, the score at each sparsity.
        sizes: By layer, how many values its kernel has.
        seconds: How long the scan took.
    """

    metric: str
    samples: int
    baseline: float
    sparsities: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def drops(self, layer: str) -> tuple[float, ...]:
        """Return what the model loses at each sparsity of a layer: points, of ``mse`` percent."""
        return tuple(drop(self.metric, self.baseline, score) for score in self.scores[layer])

    def most(self, layer: str, points: float) -> float:
        """Return the highest sparsity of a layer up to which the model loses no more than some points.

        Between two sparsities that were tried, the loss is taken to be a line; above the highest nothing is known.
        """
        below, lost = 0.0, 0.0
        for sparsity, found in zip(self.sparsities, self.drops(layer), strict=True):
            if found > points:
                share = 0.0 if math.isinf(found) else (points - lost) / (found - lost)
                return below + share * (sparsity - below)
            below, lost = sparsity, found
        return below

    def to_dict(self, points: float = 1.0) -> dict[str, Any]:
        """Return the JSON form; `points` is what ``most`` of each layer is said for."""
        layers = {
            name: {"values": self.sizes.get(name), "scores": list(scores), "drops": list(self.drops(name))}
            | {"most": self.most(name, points)}
            for name, scores in self.scores.items()
        }
        head = {key: getattr(self, key) for key in ("metric", "samples", "baseline", "seconds")}
        return {"schema_version": SCHEMA_VERSION, **head, "sparsities": list(self.sparsities)} | {
            "points": points,
            "layers": layers,
        }

    def table(self, points: float = 1.0) -> str:
        """Return text: the drop of each layer at each sparsity, and the most that it can lose within some points."""
        heading = ["layer", "values", *(f"{100 * s:g}%" for s in self.sparsities), f"within {points:g}"]
        rows = [[name, str(self.sizes.get(name, "")), *self._row(name, points)] for name in self.scores]
        return table([heading, *rows])

    def _row(self, layer: str, points: float) -> list[str]:
        return [*(f"{lost:.2f}" for lost in self.drops(layer)), f"{100 * self.most(layer, points):.0f}%"]


def scan(
    network: Network,
    lessons: Lessons,
    score: Score,
    options: Scan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Prune each layer alone to each sparsity, by magnitude and without training, and judge the model.

    Args:
        network: Is as it was afterwards; masks that it holds are not asked.
        lessons: Labelled samples to judge by.
        score: Judges; `judge` makes one.
        options: The rest.
        progress: Called with the count of judgements done, and of all.

    Raises:
        DataError: If labels and outputs do not fit.
    """
    options, begin = options or Scan(), time.perf_counter()
    drawn = _draw(lessons, options)
    weights = network.weights()
    count = 1 + len(weights) * len(options.sparsities)
    done = 0

    def judged() -> float:
        nonlocal done
        found = score(network, drawn)
        done += 1
        if progress:
            progress(done, count)
        return found

    baseline = judged()
    scores = {weight.layer: _alone(network, weight, options.sparsities, judged) for weight in weights}
    sizes = {weight.layer: math.prod(weight.shape) for weight in weights}
    seconds = time.perf_counter() - begin
    return Sensitivity(options.metric, len(drawn), baseline, options.sparsities, scores, sizes, seconds)


def judge(output: str, metric: str = METRICS[0]) -> Score:
    """Return what judges an output by a metric, in batches."""

    def score(network: Network, lessons: Lessons) -> float:
        values = predict(network, lessons.inputs, output)
        return SCORES[metric](Path(network.name), values.reshape(len(values), -1), lessons.truth)

    return score


def _draw(lessons: Lessons, options: Scan) -> Lessons:
    if len(lessons) <= options.samples:
        return lessons
    chosen = np.random.default_rng(options.seed).choice(len(lessons), options.samples, replace=False)
    batch = lessons.at(np.sort(chosen))
    return Lessons(batch.inputs, batch.truth)


def _alone(
    network: Network, weight: Weight, sparsities: tuple[float, ...], judged: Callable[[], float]
) -> tuple[float, ...]:
    """Return the scores of one pruned layer, and put it back."""
    values = network.read(weight.name)
    scores = []
    try:
        for sparsity in sparsities:
            gone = magnitude.smallest(np.abs(values), round(sparsity * values.size))
            network.write(weight.name, np.where(gone, 0, values).astype(values.dtype))
            scores.append(judged())
    finally:
        network.write(weight.name, values)
    return tuple(scores)
