"""The learning rate of every step."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress.rates import learning_rate
from edgeferry_converter.compress.recipe import OPTIMIZERS, SCHEDULES, Train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rate_is_the_optimizers_own_unless_it_is_said(optimizer: str) -> None:
    assert Train(optimizer=optimizer).rate == OPTIMIZERS[optimizer]
    assert Train(optimizer=optimizer, learning_rate=0.5).rate == 0.5


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.integers(1, 500))
def test_it_rises_while_warming_up_and_never_after(schedule: str, warmup: float, steps: int) -> None:
    train = Train(schedule=schedule, warmup=warmup, learning_rate=1.0)
    rates = [learning_rate(train, step, steps) for step in range(steps)]
    warm = math.ceil(warmup * steps)
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a < b for a, b in itertools.pairwise(rates[:warm]))
    assert all(a >= b for a, b in itertools.pairwise(rates[warm:]))
    assert max(rates) == 1.0


def test_a_cosine_is_at_half_of_its_height_in_the_middle() -> None:
    assert learning_rate(Train(learning_rate=2.0), 50, 100) == pytest.approx(1.0)


def test_a_line_ends_one_step_above_zero() -> None:
    assert learning_rate(Train(learning_rate=1.0, schedule="linear"), 99, 100) == pytest.approx(0.01)
