"""The scan: each layer alone, judged, and put back."""

from __future__ import annotations

import numpy as np
import pytest

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import Network, Weight
from edgeferry_converter.compress.sensitivity import Scan, Sensitivity, judge, scan
from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.tensors import TensorSpec

FOUND = Sensitivity("top1", 100, 90.0, (0.5, 0.8), {"a": (89.5, 80.0), "b": (91.0, 90.5)}, {"a": 10, "b": 20}, 1.5)


class Sum:
    """A network of two dense kernels side by side; the class is whether their sum of products is positive."""

    name, framework = "sum", "torch"
    inputs = (TensorSpec("x", "float32", (-1, 8)),)
    outputs = (TensorSpec("y", "float32", (-1, 2)),)

    def __init__(self) -> None:
        self.kernels = {"small": np.linspace(-0.01, 0.01, 8), "large": np.array([3.0, -2, 0.1, 0.2, -0.1, 0.1, 2, -3])}

    def weights(self) -> tuple[Weight, ...]:
        return tuple(Weight(name, name, "dense", (8,), (0,), ()) for name in self.kernels)

    def read(self, weight: str) -> np.ndarray:
        return self.kernels[weight].copy()

    def write(self, weight: str, values: np.ndarray) -> None:
        self.kernels[weight] = values

    def predict(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = feeds["x"] @ (self.kernels["small"] + self.kernels["large"])
        return {"y": np.stack([-found, found], 1)}


@pytest.fixture
def network() -> Network:
    return Sum()  # type: ignore[return-value]


@pytest.fixture
def lessons() -> Lessons:
    x = np.random.default_rng(0).normal(size=(400, 8))
    return Lessons({"x": x}, (x @ Sum().kernels["large"] > 0).astype(np.int64))


def test_each_layer_is_pruned_alone_and_put_back(network: Network, lessons: Lessons) -> None:
    before, seen = {w.name: network.read(w.name) for w in network.weights()}, []
    options = Scan(sparsities=(0.5, 0.875), samples=200)
    found = scan(network, lessons, judge("y"), options, lambda done, of: seen.append((done, of)))
    assert all((network.read(name) == values).all() for name, values in before.items())
    assert found.baseline > 99
    assert max(found.drops("small")) < 1
    assert found.drops("large")[0] < 5
    assert found.drops("large")[1] > 10
    assert found.samples == 200
    assert found.sizes == {"small": 8, "large": 8}
    assert seen == [(i, 5) for i in range(1, 6)]
    again = scan(network, lessons, judge("y"), options)
    assert again.scores == found.scores


def test_a_scan_that_fails_leaves_the_network_as_it_was(network: Network, lessons: Lessons) -> None:
    def score(network: Network, lessons: Lessons) -> float:
        if not network.read("large").all():
            raise KeyboardInterrupt
        return 1.0

    before = network.read("large")
    with pytest.raises(KeyboardInterrupt):
        scan(network, lessons, score)
    assert (network.read("large") == before).all()


def test_the_most_that_a_layer_can_lose_lies_on_the_line_between_two_scores() -> None:
    assert FOUND.most("a", 0.5) == 0.5
    assert FOUND.most("a", 5.25) == pytest.approx(0.65)
    assert FOUND.most("a", 0.25) == pytest.approx(0.25)
    assert FOUND.most("a", 20) == 0.8
    assert FOUND.most("b", 0) == 0.8


def test_of_mse_the_drop_is_in_percent_and_may_be_without_end() -> None:
    found = Sensitivity("mse", 10, 0.0, (0.5,), {"a": (0.1,)})
    assert found.most("a", 5) == 0.0
    assert Sensitivity("mse", 10, 0.1, (0.5,), {"a": (0.11,)}).drops("a") == (pytest.approx(10),)


def test_it_is_told_as_json_and_as_a_table() -> None:
    told = FOUND.to_dict(0.5)
    assert told["layers"]["a"] == {"values": 10, "scores": [89.5, 80.0], "drops": [0.5, 10.0], "most": 0.5}
    assert (told["schema_version"], told["points"], told["baseline"]) == (1, 0.5, 90.0)
    assert FOUND.table(0.5).splitlines() == [
        "layer  values    50%    80%  within 0.5",
        "a          10   0.50  10.00         50%",
        "b          20  -1.00  -0.50         80%",
    ]


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="metric: unknown name 'top'"):
        Scan("top")
    with pytest.raises(UsageError, match=r"sparsities: \[0.5, 0.3\] do not rise; give some, the smallest first"):
        Scan(sparsities=(0.5, 0.3))
    with pytest.raises(UsageError, match=r"sparsities: 1\.0 is out of range"):
        Scan(sparsities=(1.0,))
    with pytest.raises(UsageError, match="samples: 0 is out of range"):
        Scan(samples=0)
