"""Accuracy of both sides on labelled data, and what is lost between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.comparison.sides import Pairing, Side
from edgeferry_converter.data import ONLY, Data, Samples, open_data
from edgeferry_converter.metrics import METRICS, SCORES, drop
from edgeferry_runtime.errors import DataError, UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.data import Column

LABELS = ("label", "labels")


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
class Metric:
    """What accuracy is measured by.

    Attributes:
        name: ``top1``, ``mse`` or ``auc``.
        output: The output that it is taken of, as A calls it; None where only one can be meant.
        flag: The option that names the output, for errors.
    """

    name: str
    output: str | None = None
    flag: str = "--output"


@dataclass(frozen=True)
class Exam:
    """Labelled data made ready for a side, before anything is run.

    Attributes:
        path: Where they lie.
        metric: ``top1``, ``mse`` or ``auc``.
        output: The output that it is taken of.
        truth: What that output should be; of [samples, ...].
        samples: What the side is fed.
    """

    path: Path
    metric: str
    output: str
    truth: Array
    samples: Samples


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


def set_exam(side: Side, data: Labelled, wanted: Metric) -> Exam:
    """Make labelled data ready for a side, so that what does not fit is known before anything is run.

    Args:
        side: The reference; nothing of it is run.
        data: Inputs and truth.
        wanted: The metric, and the output that it is taken of.

    Raises:
        UnknownNameError: If there is no such metric or output.
        UsageError: If several outputs could be meant.
        DataError: If the data fit no input, or name no truth.
    """
    if wanted.name not in METRICS:
        raise UnknownNameError("--metric", wanted.name, METRICS)
    output = choose_output(side.outputs, wanted)
    samples = data.inputs(side.inputs).bind(side.inputs)
    return Exam(data.path, wanted.name, output, data.truth(output), samples)


def measure(sides: tuple[Side, Side], pairing: Pairing, exam: Exam) -> Accuracy:
    """Run both sides on every labelled sample.

    Args:
        sides: A and B.
        pairing: Which tensor is which.
        exam: What A is fed, and what it should answer.

    Raises:
        DataError: If labels and outputs do not fit.
    """
    from edgeferry_converter.comparison.numerics import run_second

    left, right = sides
    answers: tuple[list[Array], list[Array]] = ([], [])
    for feeds in exam.samples:
        answers[0].append(left.run(feeds)[exam.output].reshape(-1))
        answers[1].append(run_second(right, pairing, feeds)[exam.output].reshape(-1))
    a, b = (SCORES[exam.metric](exam.path, np.stack(values), exam.truth) for values in answers)
    return Accuracy(exam.metric, exam.output, len(exam.truth), a, b, drop(exam.metric, a, b))


def choose_output(outputs: Sequence[TensorSpec], wanted: Metric) -> str:
    """Return the name of the output that a metric is taken of.

    Raises:
        UnknownNameError: If there is no such output.
        UsageError: If several could be meant.
    """
    names = [spec.name for spec in outputs]
    if wanted.output is not None:
        if wanted.output not in names:
            raise UnknownNameError(wanted.flag, wanted.output, names)
        return wanted.output
    top1 = wanted.name == "top1"
    classes = [s.name for s in outputs if top1 and s.shape and math.prod(map(abs, s.shape)) == s.shape[-1] > 1]
    found = classes if len(classes) == 1 else names
    if len(found) > 1:
        raise UsageError(f"--metric {wanted.name}", f"could be of {', '.join(found)}", f"choose one with {wanted.flag}")
    return found[0]
