"""Modules of other sizes: what follows the arrays, and what cannot."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.sources.torch_shapes import call_by_name, observed_outputs
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import Array, TensorSpec

pytestmark = pytest.mark.slow


def network(module: nn.Module, *shape: int) -> TorchNetwork:
    torch.manual_seed(0)
    name = next(iter(inspect.signature(module.forward).parameters))
    call = call_by_name(module.eval(), {name: torch.rand(1, *shape)}, [])
    inputs = (TensorSpec(name, (-1, *shape), "float32"),)
    return TorchNetwork("module", call, (inputs, observed_outputs("module", call, inputs)))  # type: ignore[arg-type]


def first(state: dict[str, Array], **sizes: tuple[int, ...]) -> dict[str, Array]:
    """Cut values down to their first elements, by name with ``__`` for dots."""
    cut = {name.replace("__", "."): tuple(slice(size) for size in shape) for name, shape in sizes.items()}
    return {name: values[cut[name]] if name in cut else values for name, values in state.items()}


class Plain(nn.Module):
    """A stored number that a view needs, and one that only happens to be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.years = 6, 6
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).view(-1, self.width))


class Hard(Plain):
    """A number in the code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).view(-1, 6))


SMALLER = {"first__weight": (4, 4), "first__bias": (4,), "second__weight": (3, 4)}


def test_sizes_follow_the_arrays() -> None:
    module = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.PReLU(8), nn.Conv1d(8, 16, 1, groups=8))
    made = network(module, 3, 9)
    state = {name: values[:5] if values.shape == (8,) else values for name, values in made.state().items()}
    state = first(state, **{"0__weight": (5, 3, 3), "3__weight": (10, 1, 1), "3__bias": (10,)})
    with pytest.raises(ConversionError, match=r"output_0 has shape \[1, 10, 7\] with the smaller sizes, not"):
        made.resized(state)
    made = network(nn.Sequential(*module, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 2)), 3, 9)
    smaller = made.resized({**made.state(), **state, "6.weight": made.state()["6.weight"][:, :10]})
    conv, norm, slope, depthwise = smaller.module[:4]
    assert (conv.in_channels, conv.out_channels, norm.num_features, slope.num_parameters) == (3, 5, 5, 5)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (5, 10, 5)
    assert smaller.module[6].in_features == 10
    assert made.module[0].out_channels == 8
    assert repr(smaller.module[0]) == "Conv1d(3, 5, kernel_size=(3,), stride=(1,))"


def test_what_was_resized_can_be_resized_and_trained() -> None:
    made = network(Plain(), 4)
    smaller = made.resized(first(made.state(), **SMALLER))
    again = smaller.resized(smaller.state())
    assert again.parameters() == smaller.parameters() == 4 * 4 + 4 + 3 * 4 + 3
    smallest = smaller.resized(first(smaller.state(), first__weight=(2, 4), first__bias=(2,), second__weight=(3, 2)))
    assert smallest.numbers["first"]["out_features"] == 2
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in smallest.module.parameters())


def test_a_number_of_the_module_follows_where_it_must() -> None:
    made = network(Plain(), 4)
    smaller = made.resized(first(made.state(), **SMALLER))
    assert smaller.module.width == 4
    assert smaller.predict({"x": np.ones((2, 4), np.float32)})["output_0"].shape == (2, 3)


def test_a_number_in_the_code_is_named() -> None:
    made = network(Hard(), 4)
    with pytest.raises(ConversionError, match=r"its forward does not run with the smaller sizes \(RuntimeError: shape"):
        made.resized(first(made.state(), **SMALLER))
    graph = made.channels()
    assert any("does not run with the smaller sizes" in graph.frozen.get(int(i), "") for i in graph.layers["first"])


def test_layers_that_do_not_fit_together_are_named() -> None:
    made = network(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), 4)
    with pytest.raises(ConversionError, match="its layer '1' does not run with the smaller sizes"):
        made.resized(first(made.state(), **{"0__weight": (4, 4), "0__bias": (4,)}))


def test_values_that_are_not_the_modules_are_refused() -> None:
    made = network(Plain(), 4)
    state = made.state()
    with pytest.raises(ConversionError, match="'other' is none of the module's"):
        made.resized({**state, "other": np.zeros(1)})
    with pytest.raises(ConversionError, match=r"'first.bias' is missing"):
        made.resized({name: values for name, values in state.items() if name != "first.bias"})
    with pytest.raises(ConversionError, match=r"'first.bias' has shape \[0\], which \[6\] cannot become"):
        made.resized({**state, "first.bias": np.zeros(0, np.float32)})


def test_dtype_and_what_is_still_stay() -> None:
    made = network(Plain(), 4)
    made.module.first.weight.requires_grad_(False)
    smaller = made.resized({name: values.astype(np.float64) for name, values in made.state().items()})
    assert smaller.module.first.weight.dtype == torch.float32
    assert not smaller.module.first.weight.requires_grad


class Transposed(nn.Module):
    """A layer of one's own, whose kernel lies the other way round."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.size_out = size_out
        self.weight, self.bias = nn.Parameter(torch.randn(size_in, size_out)), nn.Parameter(torch.randn(size_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.size_out)


def test_layers_of_ones_own_follow() -> None:
    made = network(nn.Sequential(Transposed(4, 6), nn.ReLU(), Transposed(6, 6), nn.ReLU(), Transposed(6, 3)), 4)
    graph = made.channels()
    gone = [*graph.roots(graph.layers["0"])[:1], *graph.roots(graph.layers["2"])[2:5]]
    smaller = made.resized(graph.without(made.state(), gone))
    assert [smaller.module[i].size_out for i in (0, 2, 4)] == [5, 3, 3]
    assert [cost.macs for cost in graph.costs] == [24, 36, 18]


class Attention(nn.Module):
    """Heads whose number is not where the layers are, the size of each computed from what comes in, or masked."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.inner = kind, 4, 12
        self.parts = nn.ModuleDict({name: nn.Sequential(nn.Linear(12, 12)) for name in "qkv"})
        self.bias = nn.Parameter(torch.randn(4, 5, 5))
        self.register_buffer("mask", torch.ones(5, 5).tril() > 0, persistent=False)
        self.out = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        size = c // self.heads if self.kind == "computed" else 3
        q, k, v = (self.parts[name](x).view(n, t, self.heads, size).transpose(1, 2) for name in "qkv")
        scores = q @ k.transpose(-2, -1) / size**0.5
        if self.kind == "biased":
            scores = (scores + self.bias).masked_fill(~self.mask, -1e9)
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2)
        return self.out(y.reshape(n, t, self.inner if self.kind == "stored" else y.shape[2] * size))


@pytest.mark.parametrize("kind", ["plain", "stored", "biased"])
def test_heads_go_where_their_number_can_follow(kind: str) -> None:
    made = network(Attention(kind), 5, 12)
    graph = made.channels()
    frozen = {graph.root(number) for number in graph.frozen}
    roots = sorted(set(graph.roots(graph.layers["parts.q.0"]).tolist()) - frozen)
    assert len(roots) == 4
    assert graph.kinds["parts.q.0"] == "heads"
    smaller = made.resized(graph.without(made.state(), roots[1:3]))
    assert smaller.module.heads == 2
    assert smaller.module.bias.shape == ((2, 5, 5) if kind == "biased" else (4, 5, 5))


def test_heads_whose_size_is_computed_stay() -> None:
    """Fewer heads would be larger ones."""
    graph = network(Attention("computed"), 5, 12).channels()
    reasons = {reason for number, reason in graph.frozen.items() if number in graph.layers["parts.v.0"]}
    assert any("with the smaller sizes" in reason for reason in reasons)


class Kept(nn.Module):
    """What must be kept, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell = nn.GRU(8, 6, batch_first=True)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.cut, self.odd, self.last = nn.Linear(6, 6), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.dense(x))
        x = self.computed(self.cell(self.own(x, x, x)[0])[0])
        return self.last(torch.linalg.matrix_exp(self.odd(self.cut(x)[..., :3])[..., :5, :]))


def test_what_is_kept_has_its_reason() -> None:
    graph = network(Kept(), 5, 8).channels()
    assert graph.kept["own"] == "nn.MultiheadAttention keeps its sizes"
    assert graph.kept["cell"] == "nn.GRU keeps its sizes"
    assert graph.kept["computed"] == "its kernel is computed, not stored"
    frozen = {layer: {graph.frozen.get(int(i)) for i in ids} for layer, ids in graph.layers.items()}
    assert frozen["cut"] == {"slice takes some of its channels"}
    assert frozen["odd"] == {"what linalg_matrix_exp does with channels is not known"}
    assert not [layer for layer in graph.layers if layer.startswith("own")]


class Split(nn.Module):
    """Channels that are cut into halves of which one goes its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, 1)
        return self.last(torch.cat([self.left(a), b], 1)).mean((2, 3))


def test_halves_that_are_not_alike_stay() -> None:
    graph = network(Split(), 2, 4, 4).channels()
    assert {graph.frozen.get(int(i)) for i in graph.layers["first"]} == {
        "chunk cuts its channels into parts that are not alike"
    }
    assert not set(graph.layers["left"].tolist()) & set(graph.frozen)
