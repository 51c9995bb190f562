"""Which values go first: exact counts, the same answer each time, and schedules that only rise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress.methods.magnitude import Pool, masks, smallest
from edgeferry_converter.compress.methods.pattern import PrunePattern, largest
from edgeferry_converter.compress.methods.schedule import check_schedule, schedule
from edgeferry_converter.compress.methods.weights import PruneWeights
from edgeferry_runtime.errors import UnknownNameError, UsageError


def values(seed: int, *shape: int) -> np.ndarray:
    """Few different sizes, so that many are equal."""
    return np.random.default_rng(seed).integers(0, 5, shape).astype(np.float32)


@pytest.mark.slow
@given(st.integers(0, 99), st.integers(1, 40), st.floats(0, 1))
def test_exactly_so_many_of_the_smallest_go(seed: int, size: int, share: float) -> None:
    sizes, count = values(seed, size), round(share * size)
    gone = smallest(sizes, count)
    assert gone.sum() == count
    assert not count or count == size or sizes[gone].max() <= sizes[~gone].min()


def test_of_equal_values_the_first_go() -> None:
    assert smallest(np.array([[2.0, 1, 1], [1, 1, 0]]), 3).tolist() == [[False, True, True], [False, False, True]]


@pytest.mark.slow
@given(st.integers(0, 99), st.floats(0, 1), st.integers(0, 11), st.integers(0, 19))
def test_a_pool_loses_what_it_shall_and_no_kernel_more_than_it_may(seed: int, share: float, a: int, b: int) -> None:
    sizes = {"a": values(seed, 3, 4), "b": values(seed + 1, 20) / 2}
    pool = Pool({"a": a, "b": b}, 0)
    count = round(share * pool.most)
    found = masks(pool, sizes, count)
    lost = {name: int((~mask).sum()) for name, mask in found.items()}
    assert sum(lost.values()) == count
    assert lost["a"] <= a
    assert lost["b"] <= b


def test_a_pool_takes_the_smallest_whichever_kernel_they_are_in() -> None:
    found = masks(Pool({"a": 2, "b": 2}, 3), {"a": np.array([1.0, 9, 9]), "b": np.array([8.0, 2, 3])}, 3)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "a": [False, True, True],
        "b": [True, False, False],
    }


@pytest.mark.slow
@given(st.integers(0, 99), st.integers(1, 7), st.integers(1, 3), st.sampled_from([0, 1, 2]))
def test_of_each_group_exactly_the_largest_stay(seed: int, n: int, groups: int, axis: int) -> None:
    m, shape = 8, [2, 3, 2]
    shape[axis] = 8 * groups
    sizes = values(seed, *shape)
    mask = largest(sizes, axis, n, m)
    moved, kept = (np.moveaxis(x, axis, -1).reshape(-1, m) for x in (sizes, mask))
    assert (kept.sum(1) == n).all()
    assert all(group[keep].min() >= group[~keep].max() for group, keep in zip(moved, kept, strict=True))


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.integers(1, 50))
def test_a_schedule_rises_from_nothing_to_all(steps: int, a: float, b: float, every: int) -> None:
    when = schedule("polynomial", (min(a, b), max(a, b)), every, steps)
    levels = [when.level(step) for step in range(steps + 1) if when.due(step)]
    assert levels == sorted(levels)
    assert levels[-1] == 1
    assert when.begin == when.end or levels[0] == 0


def test_the_polynomial_is_cubic_and_its_updates_are_apart() -> None:
    when = schedule("polynomial", (0.2, 0.6), 15, 100)
    assert [step for step in range(101) if when.due(step)] == [20, 35, 50, 60]
    assert when.level(40) == pytest.approx(1 - 0.5**3)
    assert [schedule("constant", (0.25, 0.6), None, 100).due(step) for step in (0, 25, 60)] == [False, True, False]
    assert schedule("polynomial", (0, 0.6), None, 1000).every == 20


def test_a_schedule_must_end_after_it_has_begun() -> None:
    with pytest.raises(UsageError, match=r"end: 0.2 comes before start = 0.5; give shares"):
        check_schedule("polynomial", 0.5, 0.2, None)
    with pytest.raises(UnknownNameError, match="did you mean 'polynomial'"):
        check_schedule("polynom", 0, 1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity: 1.0 is out of range; give a number from 0 to 0.9999"),
        ({"amounts": {"conv": 2}}, "amounts: conv: 2 is out of range"),
        ({"amounts": [0.5]}, "amounts: .* is no table; write it as"),
        ({"scope": "globel"}, "scope: unknown name 'globel'; did you mean 'global'"),
        ({"of": "all"}, "of: unknown name 'all'"),
        ({"layers": "conv"}, "layers: 'conv' is no list of names"),
        ({"every": 0}, "every: 0 is out of range"),
        ({"start": 2}, "start: 2 is out of range"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneWeights(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["4:2", "2:2", "0:4", "two", 24])
def test_a_pattern_is_n_of_more(pattern: object) -> None:
    with pytest.raises(UsageError, match=r'pattern: .* is no N:M with 0 < N < M; write it as "2:4"'):
        PrunePattern(pattern)  # type: ignore[arg-type]
