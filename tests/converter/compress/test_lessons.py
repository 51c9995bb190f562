"""Labelled samples, in batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress.lessons import Lessons


def some(count: int) -> Lessons:
    """Return samples that say their own number everywhere."""
    numbers = np.arange(count)
    return Lessons({"x": numbers[:, None].astype(np.float32)}, numbers, {"logits": numbers[:, None] * 2.0})


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_sample_once_and_what_belongs_together_stays_so(
    count: int, size: int, seed: int, epoch: int
) -> None:
    batches = some(count).shuffled(size, seed, epoch)
    seen = list(batches)
    assert len(seen) == len(batches)
    assert all(len(batch.truth) == size for batch in seen[:-1])
    assert sorted(np.concatenate([batch.truth for batch in seen])) == list(range(count))
    for batch in seen:
        np.testing.assert_array_equal(batch.inputs["x"][:, 0], batch.truth)
        np.testing.assert_array_equal(batch.taught["logits"][:, 0], batch.truth * 2.0)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(n) for batch in some(40).shuffled(7, seed, epoch) for n in batch.truth]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_in_order_is_in_order_and_the_first_are_the_first() -> None:
    batches = some(10).first(5).in_order(2)
    assert [int(n) for batch in batches for n in batch.truth] == list(range(5))
