"""Accuracy of both sides on labelled data, and what is lost between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.comparison.sides import Pairing, Side
from edgeferry_converter.data import ONLY, Data, open_data
from edgeferry_runtime.errors import DataError, UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.data import Column

LABELS = ("label", "labels")
METRICS = ("top1", "mse", "auc")
UNITS: Mapping[str, str] = {"top1": "%", "auc": "%", "mse": ""}


@dataclass(frozen=True)
class Accuracy:
    """What labelled data say about both sides.

    Attributes:
        metric: ``top1``, ``mse`` or ``auc``.
        output: The output that it is taken of, as A calls it.
        samples: How many samples were labelled.
        a: The metric of A: percent for ``top1`` and ``auc``, the squared unit of the output for ``mse``.
        b: That of B.
        drop: What B loses: points of percent for ``top1`` and ``auc``; for ``mse`` by how many percent it grew.
    """

    metric: str
    output: str
    samples: int
    a: float
    b: float
    drop: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, in which what is not finite is None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Labelled:
    """Labelled data: columns of samples, of which some are inputs and some the truth."""

    path: Path
    columns: Mapping[str, Column]

    def inputs(self, specs: Sequence[TensorSpec]) -> Data:
        """Return the columns that are inputs: by name, or the only one that is no label for an only input."""
        names = [spec.name for spec in specs]
        if names and all(name in self.columns for name in names):
            return Data(self.path, {name: self.columns[name] for name in names})
        rest = {key: column for key, column in self.columns.items() if key not in LABELS}
        if len(names) == 1 and len(rest) == 1:
            return Data(self.path, {ONLY: next(iter(rest.values()))})
        return Data(self.path, rest)

    def truth(self, output: str) -> Array:
        """Return the labels, or else the reference values of one output.

        Raises:
            DataError: If there are none.
        """
        for key in (output, *LABELS):
            if key in self.columns:
                column = self.columns[key]
                return np.stack([np.asarray(column[i]) for i in range(len(column))])
        fix = f"add an array called label, or reference outputs called {output!r}"
        raise DataError(self.path, f"has no labels (it has {', '.join(self.columns)})", fix)


def open_labelled(path: Path) -> Labelled:
    """Read labelled data.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no ``.npz`` of as many samples in every array.
    """
    data = open_data(path)
    if ONLY in data.columns:
        raise DataError(path, "names no labels", "give an .npz with inputs by name and an array called label")
    return Labelled(path, data.columns)


def measure(sides: tuple[Side, Side], pairing: Pairing, data: Labelled, wanted: tuple[str, str | None]) -> Accuracy:
    """Run both sides on every labelled sample.

    Args:
        sides: A and B.
        pairing: Which tensor is which.
        data: Inputs and truth.
        wanted: The metric, and the output that it is taken of.

    Raises:
        UnknownNameError: If there is no such metric or output.
        DataError: If labels and outputs do not fit.
    """
    from edgeferry_converter.comparison.numerics import run_second

    metric, name = wanted
    if metric not in METRICS:
        raise UnknownNameError("--metric", metric, METRICS)
    left, right = sides
    output = _choose(left.outputs, name, metric)
    truth = data.truth(output)
    answers: tuple[list[Array], list[Array]] = ([], [])
    for feeds in data.inputs(left.inputs).bind(left.inputs):
        answers[0].append(left.run(feeds)[output].reshape(-1))
        answers[1].append(run_second(right, pairing, feeds)[output].reshape(-1))
    a, b = (SCORES[metric](data.path, np.stack(values), truth) for values in answers)
    return Accuracy(metric, output, len(truth), a, b, _drop(metric, a, b))


def _choose(outputs: Sequence[TensorSpec], name: str | None, metric: str) -> str:
    names = [spec.name for spec in outputs]
    if name is not None:
        if name not in names:
            raise UnknownNameError("--output", name, names)
        return name
    classes = [
        s.name for s in outputs if metric == "top1" and s.shape and math.prod(map(abs, s.shape)) == s.shape[-1] > 1
    ]
    found = classes if len(classes) == 1 else names
    if len(found) > 1:
        raise UsageError(f"--metric {metric}", f"could be of {', '.join(found)}", "choose one with --output")
    return found[0]


def _drop(metric: str, a: float, b: float) -> float:
    if metric != "mse":
        return a - b
    if a == 0:
        return 0.0 if b == 0 else math.inf
    return 100 * (b - a) / a


def _top1(path: Path, scores: Array, truth: Array) -> float:
    """Percent of samples whose largest score is the label's; labels are class numbers, or one-hot."""
    wanted = truth.reshape(len(truth), -1)
    labels = wanted.argmax(1) if wanted.shape[1] == scores.shape[1] > 1 else wanted[:, 0]
    if wanted.shape[1] not in (1, scores.shape[1]) or not np.isin(labels, np.arange(scores.shape[1])).all():
        raise DataError(
            path, f"has labels that are not the {scores.shape[1]} classes", "give numbers from 0, or one-hot"
        )
    return float(100 * np.mean(scores.argmax(1) == labels))


def _mse(path: Path, values: Array, truth: Array) -> float:
    wanted = truth.reshape(len(truth), -1)
    if wanted.shape != values.shape:
        reason = f"has {wanted.shape[1]} reference values a sample, and the output {values.shape[1]}"
        raise DataError(path, reason, "give as many")
    return float(np.mean((values.astype(np.float64) - wanted) ** 2))


def _auc(path: Path, scores: Array, truth: Array) -> float:
    """Percent of pairs of a positive and a negative sample that are in order; ties count half.

    Source: Hanley and McNeil 1982, "The Meaning and Use of the Area under a ROC Curve" (the Mann-Whitney statistic).
    """
    labels = truth.reshape(len(truth), -1)[:, 0]
    positive = labels == 1
    if truth.size != len(truth) or not np.isin(labels, (0, 1)).all() or positive.all() or not positive.any():
        raise DataError(path, "has labels that are not both 0 and 1", "give one label of 0 or 1 a sample, both kinds")
    if scores.shape[1] > 2:
        raise DataError(
            path, f"belongs to an output of {scores.shape[1]} values", "auc is for one score, or two classes"
        )
    _, rank, count = np.unique(scores[:, -1], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[rank.reshape(-1)]
    ones = int(positive.sum())
    return float(100 * (ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))


SCORES: Mapping[str, Callable[[Path, Array, Array], float]] = {"top1": _top1, "mse": _mse, "auc": _auc}
