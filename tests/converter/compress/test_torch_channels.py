"""Channels traced through PyTorch modules of many kinds, and removed: the rest computes what it computed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as f

from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.compress.on_torch.proving import zeroed
from edgeferry_converter.compress.structure.graph import HEAD, MODEL_INPUT, MODEL_OUTPUT, ChannelGraph
from edgeferry_converter.sources.torch_shapes import call_by_name, observed_outputs
from edgeferry_runtime.tensors import TensorSpec

pytestmark = pytest.mark.slow


def network(module: nn.Module, **examples: torch.Tensor) -> TorchNetwork:
    """Open a module that was not read from a file; normalization gets statistics that are not trivial."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    call = call_by_name(module.eval(), examples, [])
    shapes = {name: (-1, *tensor.shape[1:]) for name, tensor in examples.items()}
    inputs = tuple(TensorSpec(k, shapes[k], str(t.dtype).removeprefix("torch.")) for k, t in examples.items())
    return TorchNetwork(type(module).__name__, call, (inputs, observed_outputs("module", call, inputs)))  # type: ignore[arg-type]


class Inverted(nn.Module):
    """An inverted residual with squeeze-and-excite (MobileNet v3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.widen = nn.Conv2d(8, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.bn2 = nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.narrow = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        y = f.hardswish(self.bn1(self.widen(x)))
        y = f.relu6(self.bn2(self.depthwise(y)))
        gate = self.excite(f.relu(self.squeeze(f.adaptive_avg_pool2d(y, 1))))
        x = x + self.narrow(y * f.hardsigmoid(gate))
        return self.head(f.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Concatenation (DenseNet), a depthwise multiplier, groups (ResNeXt) and transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(13)
        self.doubled = nn.Conv2d(13, 26, 3, padding=1, groups=13)
        self.mix = nn.Conv2d(26, 12, 1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.up = nn.ConvTranspose2d(12, 7, 2, 2)
        self.slope = nn.PReLU(7)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.cat([image, self.a(image)], 1)
        x = self.doubled(torch.relu(self.norm(torch.cat([x, self.b(x)], 1))))
        x = f.max_pool2d(torch.sigmoid(self.grouped(f.silu(self.mix(x)))), 2)
        return self.out(self.slope(self.up(x)))


class Flat(nn.Module):
    """A picture that is flattened, and 1-d convolutions that are shuffled into space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fine = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 5, 3, padding=1)
        self.dense = nn.Linear(5 * 16 * 16, 12)
        self.again = nn.Linear(12, 24)
        self.wave = nn.Conv1d(6, 9, 3)
        self.norm = nn.BatchNorm1d(9)
        self.last = nn.Linear(18, 3)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = f.pixel_shuffle(torch.relu(self.conv(image)), 2)
        x = torch.tanh(self.dense(self.fine(x).reshape(image.shape[0], -1)))
        x = self.norm(self.wave(self.again(x).unflatten(1, (6, 4))))
        return {"logits": self.last(x.flatten(1)), "mean": x.mean((1, 2))}


class Attention(nn.Module):
    """Attention of one's own, with fused or with separate projections."""

    def __init__(self, size: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, size // heads, fused
        if fused:
            self.qkv = nn.Linear(size, 3 * size)
        else:
            self.q, self.k, self.v = (nn.Linear(size, size) for _ in range(3))
        self.proj = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        if self.fused:
            qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            y = f.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (
                part(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2) for part in (self.q, self.k, self.v)
            )
            y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, -1))


class Transformer(nn.Module):
    """Patches with a class token and positions; one block of each kind of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.attention = nn.ModuleList(Attention(16, 4, fused) for fused in (True, False))
        self.wide, self.small = nn.Linear(16, 20), nn.Linear(20, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        x = x + self.attention[0](self.norms[0](x))
        x = x + self.attention[1](self.norms[1](x))
        x = x + self.small(f.gelu(self.wide(self.norms[2](x))))
        return self.head(self.norms[3](x)[:, 0])


class Residual(nn.Module):
    """Shortcuts without parameters that pad channels with zeros (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, 2, 1), nn.Conv2d(10, 10, 3, 1, 1)
        self.norm, self.out = nn.BatchNorm2d(10), nn.Linear(10, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        y = self.norm(self.b(torch.relu(self.a(x))))
        return self.out(torch.relu(y + f.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))).mean((2, 3)))


class Words(nn.Module):
    """Tokens whose table is also the last layer's kernel, a layer that is used twice, and a gate (GLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.twice, self.gate = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 12)
        self.back, self.last = nn.Linear(6, 8), nn.Linear(8, 11, bias=False)
        self.last.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        a, b = self.gate(x).chunk(2, -1)
        return self.last(self.back(a * torch.sigmoid(b)))


class Rotary(nn.Module):
    """Rotary positions, positions of each head from a table (Swin), root-mean-square normalization within heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.up, self.qkv, self.out = nn.Linear(2, 10), nn.Linear(10, 36), nn.Linear(12, 2)
        self.places = nn.Parameter(torch.randn(9, 3))
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5)[None] + 4)
        self.register_buffer("turn", torch.randn(5, 4), persistent=False)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-x[..., 2:], x[..., :2]], -1)
        x = x * self.turn.cos() + half * self.turn.sin()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.stack(self.qkv(torch.relu(self.up(x))).chunk(3, -1)).unflatten(-1, (self.heads, 4)).transpose(2, 3)
        bias = self.places[self.index.view(-1)].view(5, 5, -1).permute(2, 0, 1)
        y = f.scaled_dot_product_attention(self.turned(x[0]), self.turned(x[1]), x[2], bias[None])
        return self.out(y.transpose(1, 2).flatten(2))


MODULES: Mapping[str, Callable[[], TorchNetwork]] = {
    "inverted": lambda: network(Inverted(), image=torch.rand(1, 3, 8, 8)),
    "dense": lambda: network(Dense(), image=torch.rand(1, 3, 8, 8)),
    "flat": lambda: network(Flat(), image=torch.rand(1, 1, 8, 8)),
    "transformer": lambda: network(Transformer(), image=torch.rand(1, 1, 8, 8)),
    "residual": lambda: network(Residual(), image=torch.rand(1, 3, 8, 8)),
    "rotary": lambda: network(Rotary(), x=torch.rand(1, 5, 2)),
    "words": lambda: network(Words(), tokens=torch.randint(0, 11, (1, 5))),
}


@pytest.fixture(scope="module")
def traced() -> Callable[[str], tuple[TorchNetwork, ChannelGraph]]:
    known: dict[str, tuple[TorchNetwork, ChannelGraph]] = {}

    def find(name: str) -> tuple[TorchNetwork, ChannelGraph]:
        if name not in known:
            made = MODULES[name]()
            known[name] = made, made.channels()
        return known[name]

    return find


def free(graph: ChannelGraph, layer: str) -> set[int]:
    """Return the classes of a layer that may go."""
    frozen = {graph.root(number) for number in graph.frozen}
    return {int(root) for root in graph.roots(graph.layers[layer])} - frozen


def reasons(graph: ChannelGraph, layer: str) -> set[str]:
    roots = set(graph.roots(graph.layers[layer]).tolist())
    return {reason for number, reason in graph.frozen.items() if graph.root(number) in roots}


def removable(graph: ChannelGraph, wanted: list[int]) -> set[int]:
    """Take classes in this order as long as every axis keeps one."""
    uses, gone = [graph.roots(use.ids) for use in graph.uses], set[int]()
    for root in wanted:
        if all(not np.isin(use, [*gone, root]).all() for use in uses):
            gone.add(root)
    return gone


def feeds(made: TorchNetwork) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    spec = made.inputs[0]
    shape = (3, *spec.shape[1:])
    given = random.integers(0, 11, shape) if spec.dtype == "int64" else random.standard_normal(shape)
    return {spec.name: given.astype(spec.dtype)}


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_zero_can_be_removed(
    name: str, traced: Callable[[str], tuple[TorchNetwork, ChannelGraph]], data: st.DataObject
) -> None:
    """The law: any set of classes that leaves something everywhere."""
    made, graph = traced(name)
    every = sorted({root for layer in graph.layers for root in free(graph, layer)})
    wanted = data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
    gone, state = removable(graph, wanted), made.state()
    whole = made.clone()
    whole.restore(zeroed(graph, state, gone))
    smaller = made.resized(graph.without(state, gone))
    given_ = feeds(made)
    expected, answers = whole.predict(given_), smaller.predict(given_)
    for output, values in expected.items():
        np.testing.assert_allclose(answers[output], values, rtol=1e-5, atol=1e-5)
    assert not gone or smaller.parameters() < made.parameters()


FREE = {
    "inverted": {"stem": 8, "widen": 24, "squeeze": 6, "excite": 24, "narrow": 8, "head": 0},
    "dense": {"a": 6, "b": 4, "mix": 4, "grouped": 4, "up": 7, "out": 0},
    "flat": {"conv": 2, "fine": 5, "dense": 12, "again": 0, "wave": 0, "last": 0},
    "transformer": {
        "patch": 0,
        "attention.0.qkv": 4,
        "attention.1.q": 4,
        "attention.1.k": 4,
        "attention.1.v": 4,
        "attention.0.proj": 0,
        "wide": 20,
        "small": 0,
    },
    "residual": {"stem": 6, "a": 10, "b": 6, "out": 0},
    "rotary": {"up": 10, "qkv": 3, "out": 0},
    "words": {"table": 8, "twice": 8, "gate": 6, "back": 8},
}
"""How many classes of each layer may go, known by thinking."""


@pytest.mark.parametrize("name", FREE)
def test_what_may_go(name: str, traced: Callable[[str], tuple[TorchNetwork, ChannelGraph]]) -> None:
    _, graph = traced(name)
    assert {layer: len(free(graph, layer)) for layer in FREE[name]} == FREE[name]


def test_costs_are_those_of_the_layers(traced: Callable[[str], tuple[TorchNetwork, ChannelGraph]]) -> None:
    _, graph = traced("inverted")
    macs = {cost.layer: cost.macs for cost in graph.costs}
    assert macs["stem"] == 16 * 8 * 27
    assert macs["depthwise"] == 16 * 24 * 9
    assert macs["squeeze"] == 24 * 6
    assert macs["head"] == 8 * 5
    assert next(cost for cost in graph.costs if cost.layer == "depthwise").inputs is None


def test_heads_are_units(traced: Callable[[str], tuple[TorchNetwork, ChannelGraph]]) -> None:
    made, graph = traced("transformer")
    heads = {"attention.0.qkv", "attention.1.q", "attention.1.k", "attention.1.v"}
    assert {layer for layer, kind in graph.kinds.items() if kind == HEAD} == heads
    gone = sorted(free(graph, "attention.0.qkv"))[:3]
    smaller = made.resized(graph.without(made.state(), gone))
    assert smaller.module.attention[0].num_heads == 1
    assert smaller.module.attention[1].num_heads == 4
    assert smaller.module.attention[0].qkv.out_features == 12


def test_reasons(traced: Callable[[str], tuple[TorchNetwork, ChannelGraph]]) -> None:
    _, graph = traced("transformer")
    assert any("layer_norm" in reason for reason in reasons(graph, "patch"))
    assert reasons(graph, "head") == {MODEL_OUTPUT}
    _, graph = traced("residual")
    assert reasons(graph, "b") == {"it is padding"}
    _, graph = traced("flat")
    assert any("mean runs over its channels" in reason for reason in reasons(graph, "wave"))
    assert any("does not run with the smaller sizes" in reason for reason in reasons(graph, "again"))
    _, graph = traced("dense")
    assert MODEL_INPUT in graph.frozen.values()
