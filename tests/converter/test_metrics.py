"""Metrics: what scores and truth give, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.commands.accuracy_text import accuracy_line
from edgeferry_converter.metrics import METRICS, SCORES, UNITS
from edgeferry_runtime.errors import DataError

HERE = Path("data.npz")


def test_every_metric_has_a_score_and_a_unit() -> None:
    assert set(METRICS) == set(SCORES) == set(UNITS)


def test_the_line_that_shows_an_accuracy() -> None:
    figures = {"metric": "top1", "output": "y", "samples": 8, "a": 96.875, "b": 90.625, "drop": 6.25}
    sides, of = {"a": "A", "b": "B"}, "of 'y' on 8 labelled samples"
    assert accuracy_line(figures, sides) == f"top1 {of}: A 96.88%, B 90.62%, a drop of 6.25 points"
    grown = {**figures, "metric": "mse", "a": 0.0, "drop": None}
    assert accuracy_line(grown, sides) == f"mse {of}: A 0, B 90.62, a drop of inf percent"


def test_auc_is_the_share_of_pairs_in_order() -> None:
    auc = SCORES["auc"]
    assert auc(HERE, np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([0, 0, 1, 1])) == 75
    assert auc(HERE, np.array([[0.5], [0.5]]), np.array([0, 1])) == 50
    assert auc(HERE, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])) == 100


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_counts_every_pair(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([int(p) for p, _ in pairs]), np.array([[s] for _, s in pairs], float)
    if len(set(labels)) < 2:
        return
    ones, zeros = scores[labels == 1, 0], scores[labels == 0, 0]
    expected = np.mean((ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros))
    assert SCORES["auc"](HERE, scores, labels) == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("metric", "scores", "truth"),
    [
        ("top1", np.eye(3), np.array([0, 1, 3])),
        ("top1", np.eye(3), np.array([0.5, 1, 2])),
        ("mse", np.eye(3), np.zeros((3, 2))),
        ("auc", np.eye(2), np.array([1, 1])),
        ("auc", np.eye(3), np.array([0, 1, 1])),
    ],
)
def test_labels_that_do_not_fit_are_refused(metric: str, scores: np.ndarray, truth: np.ndarray) -> None:
    with pytest.raises(DataError):
        SCORES[metric](HERE, scores, truth)


def test_one_hot_labels_are_classes_too() -> None:
    assert SCORES["top1"](HERE, np.eye(3), np.eye(3)) == 100
