"""What accuracy is measured by: one function of scores and truth for each metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array

METRICS = ("top1", "mse", "auc")
UNITS: Mapping[str, str] = {"top1": "%", "auc": "%", "mse": ""}


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


def drop(metric: str, before: float, after: float) -> float:
    """Return what was lost: points of percent for ``top1`` and ``auc``; for ``mse`` by how many percent it grew."""
    if metric != "mse":
        return before - after
    if before == 0:
        return 0.0 if after == 0 else math.inf
    return 100 * (after - before) / before
