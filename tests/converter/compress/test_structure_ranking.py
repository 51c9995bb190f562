"""The four criteria, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeferry_converter.compress.structure.graph import ChannelGraph, Use
from edgeferry_converter.compress.structure.ranking import makers, rank
from edgeferry_converter.compress.structure.units import Units

KERNEL = np.array([[3.0, 0.0, -1.0], [-4.0, 1.0, 1.0]])
OTHER = np.array([[1.0, 1.0, 4.0]])


def units(*, together: bool = False) -> tuple[Units, dict[str, np.ndarray]]:
    """Return a kernel of three outputs with a scale; `together` with a second kernel whose outputs are the same."""
    graph = ChannelGraph()
    ids = graph.layers["a"] = graph.new(3)
    graph.uses += [Use("a/kernel", 1, ids, "output"), Use("bn/gamma", 0, ids, "scale")]
    if together:
        other = graph.layers["b"] = graph.new(3)
        graph.uses.append(Use("b/kernel", 1, other, "output"))
        graph.unite(ids, other)
    state = {"a/kernel": KERNEL, "bn/gamma": np.array([1.0, -4.0, 1.0]), "b/kernel": OTHER}
    return Units(graph, {name: values.size for name, values in state.items()}), state


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("l1", [7, 1, 2]),
        ("l2", [5, 1, np.sqrt(2)]),
        ("batch-norm", [1, 4, 1]),
    ],
)
def test_norms_of_slices_divided_by_their_mean(criterion: str, expected: list[float]) -> None:
    of, state = units()
    assert rank(of, criterion, state) == pytest.approx(np.array(expected) / np.mean(expected))


def test_taylor_is_the_mean_of_squares_over_batches() -> None:
    of, state = units()
    gradients = [{"a/kernel": np.ones((2, 3))}, {"a/kernel": np.array([[0.0, 5, 0], [0, 2, 0]])}]
    expected = np.array([(1 + 0) / 2, (1 + 4) / 2, 0])
    assert rank(of, "taylor", state, gradients) == pytest.approx(expected / expected.mean())


def test_united_channels_have_the_mean_of_all_that_makes_them() -> None:
    of, state = units(together=True)
    one, two = np.array([7, 1, 2]) * 3 / 10, np.array([1, 1, 4]) / 2
    numbers = of.layers["a"]
    assert rank(of, "l1", state)[numbers] == pytest.approx((one + two) / 2)


def test_a_kernel_of_zeros_is_worth_nothing() -> None:
    of, state = units()
    assert (rank(of, "l2", {**state, "a/kernel": np.zeros((2, 3))}) == 0).all()


def test_what_no_normalization_scales_has_no_importance() -> None:
    of, state = units()
    del of.graph.uses[1]
    assert np.isnan(rank(of, "batch-norm", state)).all()
    assert makers(of, "batch-norm") == ()


def test_taylor_says_nothing_of_what_gets_no_gradient() -> None:
    """Such as a branch to an output that is not trained: its channels would all go first."""
    of, state = units()
    assert np.isnan(rank(of, "taylor", state, [{"a/kernel": np.zeros((2, 3))}])).all()
    both, state = units(together=True)
    numbers = both.layers["a"]
    gradients = [{"a/kernel": np.zeros((2, 3)), "b/kernel": np.array([[1.0, 2, 0]])}]
    assert rank(both, "taylor", state, gradients)[numbers] == pytest.approx(np.array([1, 4, 0]) / (5 / 3))
