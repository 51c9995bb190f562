"""Distances between outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeferry_runtime.numerics import OutputError, Tolerance, compare_output, is_distribution

FINITE = hnp.arrays(np.float32, (3, 1, 4), elements=st.floats(-1e6, 1e6, width=32))


@pytest.mark.slow
@given(FINITE)
def test_equal_outputs_have_no_distance(values: np.ndarray) -> None:
    error = compare_output("y", values, values)
    assert (error.max_abs, error.mean_abs, error.snr_db, error.top1) == (0, 0, math.inf, 1)
    assert error.cosine == pytest.approx(1)


@pytest.mark.slow
@given(FINITE, FINITE)
def test_distance_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    there, back = compare_output("y", a, b), compare_output("y", b, a)
    assert there.max_abs == back.max_abs >= there.mean_abs >= 0
    assert there.cosine == pytest.approx(back.cosine)
    assert -1.000001 <= there.cosine <= 1.000001


def test_figures_of_a_known_pair() -> None:
    error = compare_output("y", np.float32([[3, 4]]), np.float32([[3, 3]]))
    assert error.max_abs == 1
    assert error.mean_abs == 0.5
    assert error.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert error.snr_db == pytest.approx(10 * math.log10(25))


def test_equal_infinities_and_nans_are_no_difference() -> None:
    values = np.float32([[math.inf, math.nan, 1.0]])
    assert compare_output("y", values, values).max_abs == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_new_non_finite_value_breaks_every_limit(bad: float) -> None:
    error = compare_output("y", np.float32([[1, 2]]), np.float32([[1, bad]]))
    assert Tolerance(max_abs=1e9).violations(error)


def test_top1_counts_a_tie_among_the_winners() -> None:
    reference = np.float32([[[0.1, 0.9]], [[0.9, 0.1]]])
    actual = np.float32([[[0.5, 0.5]], [[0.1, 0.9]]])
    assert compare_output("y", reference, actual).top1 == 0.5


def test_an_image_is_no_distribution() -> None:
    assert not is_distribution(np.zeros((2, 1, 8, 8, 3)))
    assert is_distribution(np.zeros((2, 1, 10)))
    assert compare_output("y", np.zeros((2, 1, 8, 8, 3)), np.zeros((2, 1, 8, 8, 3))).top1 is None


def test_violations_name_output_figure_and_limit() -> None:
    error = OutputError("logits", 0.5, 0.1, 0.9, 10.0, 0.7)
    tolerance = Tolerance(max_abs=0.1, min_cosine=0.99, min_snr_db=20, min_top1=0.9)
    said = tolerance.violations(error)
    assert len(said) == 4
    assert said[0] == "logits: max abs error 0.5 is above 0.1"
    assert Tolerance().violations(error) == []


def test_json_has_no_infinity() -> None:
    assert OutputError("y", 0, 0, 1, math.inf).to_dict()["snr_db"] is None
