"""What a network is judged by: a metric on labelled samples, or a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress.dataset import Target
from edgeferry_converter.compress.functions import Function
from edgeferry_converter.compress.lessons import Lessons, predict
from edgeferry_converter.compress.network import Network
from edgeferry_converter.data import ONLY
from edgeferry_converter.metrics import SCORES, UNITS, drop
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array

EVALUATE = "evaluate"
"""The name of a metric that is the user's own: a number, the higher the better."""


@dataclass(frozen=True)
class Judge:
    """Judges networks.

    Attributes:
        where: What the samples or the function are called in errors.
        target: The output that is judged, and its metric.
        lessons: The samples; None where a function judges.
        function: Takes ``predict`` and returns a number, the higher the better.
    """

    where: str
    target: Target
    lessons: Lessons | None = None
    function: Function | None = None

    @property
    def metric(self) -> str:
        """The metric's name."""
        return EVALUATE if self.lessons is None else self.target.metric

    @property
    def samples(self) -> int:
        """How many samples there are; 0 where a function judges, which does not tell."""
        return 0 if self.lessons is None else len(self.lessons)

    def score(self, network: Network) -> float:
        """Return the metric of a network, in its unit.

        Raises:
            DataError: If the function fails, or returns no number.
        """
        if self.lessons is None:
            return self._asked(network)
        found = predict(network, self.lessons.inputs, self.target.output)
        return SCORES[self.metric](Path(self.where), found.reshape(len(found), -1), self.lessons.truth)

    def drop(self, before: float, after: float) -> float:
        """Return what was lost: points of the metric, of ``mse`` percent."""
        return drop(self.metric, before, after)

    def _asked(self, network: Network) -> float:
        assert self.function is not None
        with foreign(self.where, "the function failed", "mend it", DataError):
            answer: Any = self.function(_predictor(network, self.target.output))
        try:
            value = float(answer)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise DataError(self.where, f"returned {answer!r:.60}", "return one finite number, the higher the better")
        return value


def unit(metric: str) -> str:
    """Return what stands behind a value of a metric: ``%`` or nothing."""
    return UNITS.get(metric, "")


def _predictor(network: Network, output: str) -> Function:
    """Return what a judging function is given: arrays in, one array of the judged output out."""

    def predictor(inputs: Array | Mapping[str, Array]) -> Array:
        named = inputs if isinstance(inputs, Mapping) else {ONLY: inputs}
        if ONLY in named and len(network.inputs) == 1:
            named = {network.inputs[0].name: named[ONLY]}
        return predict(network, {s.name: np.asarray(named[s.name]).astype(s.dtype) for s in network.inputs}, output)

    return predictor
