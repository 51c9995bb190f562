"""What is done to a PyTorch module before it is trained for the grid: exported, and its normalization folded."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeferry_converter.compress.grid import LARGEST, Grid, fake, on_grid, snap

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgeferry_converter.compress.on_torch import exporting  # noqa: E402
from edgeferry_converter.compress.on_torch.fake_quantizers import Activation, Kernel  # noqa: E402
from edgeferry_converter.compress.on_torch.folding import Folded, fold  # noqa: E402
from edgeferry_converter.compress.on_torch.rewriting import operator  # noqa: E402
from edgeferry_converter.compress.on_torch.storing import Stored, stored  # noqa: E402
from edgeferry_converter.quiet import quiet  # noqa: E402
from edgeferry_runtime.errors import ConversionError  # noqa: E402
from edgeferry_runtime.tensors import Array  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class Call(nn.Module):
    """Calls a function with parts."""

    def __init__(self, function: Any, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, image: Any) -> Any:
        return self.function(self.parts, image)


def folded(blocks: ModuleType, module: nn.Module, *shape: int) -> tuple[Any, Folded]:
    torch.manual_seed(0)
    network = blocks.network(blocks.seeded(module), torch.rand(1, *shape))
    return network, fold(network, exporting.export(network))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)), (4, 9)),
        (lambda: (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8, affine=False)), (4, 6, 6)),
        (lambda: (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 4, 4, 4)),
        (lambda: (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6)), (4, 3, 3)),
        (lambda: (nn.ConvTranspose1d(4, 6, 2, bias=False), nn.BatchNorm1d(6)), (4, 5)),
        (lambda: (nn.Linear(5, 7), nn.BatchNorm1d(7)), (5,)),
    ],
    ids=["conv1d", "depthwise", "conv3d", "transposed-groups", "transposed", "linear"],
)
def test_folding_changes_nothing_of_what_is_computed(
    torch_blocks: ModuleType, make: Callable[[], tuple[nn.Module, nn.Module]], shape: tuple[int, ...]
) -> None:
    layer, norm = make()
    network, found = folded(torch_blocks, nn.Sequential(layer, norm), *shape)
    feeds = {"image": np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)}
    before, after = network.predict(feeds)["output_0"], found.network.predict(feeds)["output_0"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert (found.into, found.kept) == ({"1": "0"}, {})
    assert [type(part).__name__ for part in found.network.module] == [type(layer).__name__, "Identity"]
    assert type(network.module[1]) is type(norm)


def test_normalization_that_cannot_be_folded_stays_and_says_why(torch_blocks: ModuleType) -> None:
    def function(parts: Any, x: Any) -> Any:
        first = parts[0](parts[1](x))
        return parts[2](first) + first + parts[3](parts[4](x)) + parts[4](x)

    parts = (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    _, found = folded(torch_blocks, Call(function, *parts), 2, 4, 4)
    assert found.into == {}
    assert found.kept == {
        "parts.1": "is not folded, because no convolution or linear layer comes right before it",
        "parts.2": "is not folded, because others read what parts.0 gives it",
        "parts.3": "is not folded, because it, or the layer before it, is used more than once or is no plain layer",
    }


def test_what_writes_in_place_is_what_later_readers_read(torch_blocks: ModuleType) -> None:
    def function(parts: Any, x: Any) -> Any:
        shortcut = parts[0](x)
        y = parts[1](parts[2](shortcut))  # writes into the shortcut first
        y += shortcut
        return y

    module = Call(function, nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.ReLU(inplace=True))
    network = torch_blocks.network(module)
    graph = exporting.export(network)
    exporting.check(network, graph)
    assert not [node for node in graph.graph.nodes if operator(node).endswith("_")]


def test_a_graph_that_computes_something_else_is_refused(torch_blocks: ModuleType) -> None:
    network = torch_blocks.network(nn.Conv2d(1, 2, 1))
    graph = exporting.export(network.clone())
    exporting.check(network, graph)
    graph.get_parameter("bias").data += 1
    with pytest.raises(ConversionError, match="its exported graph computes another output_0 than the module; let"):
        exporting.check(network, graph)


def rules(blocks: ModuleType, function: Any, *parts: nn.Module) -> tuple[list[str], Stored]:
    """Return the nodes that have a range of their own, and all that is known."""
    with quiet():
        found = stored(exporting.export(blocks.network(Call(function, *parts), torch.rand(1, 2, 4, 4))).graph)
    return [node.name for node in found.own], found


def test_rules_of_what_is_stored(torch_blocks: ModuleType) -> None:
    f, conv = nn.functional, nn.Conv2d(2, 2, 3, padding=1)
    for function, wanted in {
        "fused": (lambda p, x: f.relu6(p[0](x)), ["relu6"]),
        "not fused, since it is read": (lambda p, x: f.relu(y := p[0](x)) + y, ["conv2d", "relu", "add"]),
        "scalars": (lambda p, x: f.hardtanh(p[0](x) + 3, 0, 6) * 2, ["hardtanh", "mul"]),
        "bounds that TFLite has not": (lambda p, x: p[0](x).clamp(0, 5), ["conv2d", "clamp"]),
        "moved": (lambda p, x: f.max_pool2d(p[0](x), 2).flatten(1), ["conv2d"]),
        "parts": (lambda p, x: torch.cat([p[0](x), x * 2], 1), ["cat"]),
        "parts that are read": (lambda p, x: torch.cat([y := p[0](x), p[0](y)], 1), ["conv2d", "cat"]),
        "several operators": (lambda p, x: f.silu(p[0](x)), ["conv2d", "mul_tensor"]),
        "several, one of them fused": (lambda p, x: f.hardsigmoid(p[0](x)), ["hardtanh_default", "mul_tensor"]),
        "mean": (lambda p, x: f.adaptive_avg_pool2d(p[0](x), 1), ["conv2d", "adaptive_avg_pool2d"]),
    }.values():
        assert rules(torch_blocks, function, conv)[0] == ["image", *wanted]


def test_followers_fixed_ranges_and_floats(torch_blocks: ModuleType) -> None:
    f, conv = nn.functional, nn.Conv2d(2, 2, 3, padding=1)

    def function(p: Any, x: Any) -> Any:
        return f.leaky_relu(p[0](f.leaky_relu(f.avg_pool2d(p[0](x), 2).sigmoid())))

    own, found = rules(torch_blocks, function, conv)
    assert own == ["image", "conv2d", "leaky_relu", "conv2d_1"]  # the last one's output leaves as float
    assert {node.name: source.name for node, source in found.follows.items()} == {"avg_pool2d": "conv2d"}
    assert {node.name: limits for node, limits in found.fixed.items()} == {"sigmoid": (0.0, 255 / 256)}
    assert list(found.kept.values()) == ["ai-edge-quantizer computes leaky_relu in float"] * len(found.kept)


def test_layers_that_were_to_stay_float_do(torch_blocks: ModuleType) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    made = torch_blocks.network(module).simulated(Grid(bits={"2.weight": 32}))
    assert list(made._prepared.by_kernel) == ["0.weight"]
    assert made.kept == {"2": "its weights were to stay float"}
    made.calibrate({"image": torch_blocks.SAMPLES})
    settled, ranges = made.settled()
    np.testing.assert_array_equal(settled.read("2.weight"), module[2].weight.detach().numpy())
    assert set(ranges.ranges) == {"image", "0"}


def test_fake_quantizers_follow_the_rules_of_the_grid() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    for bits in (8, 4):
        quantizer = Kernel(bits=bits, groups=0)
        made = quantizer(torch.from_numpy(kernel)).numpy()
        np.testing.assert_allclose(made, snap(kernel, (0,), bits), rtol=1e-5, atol=1e-7)
    activation = Activation().eval()
    values = rng.normal(size=(8, 5)).astype(np.float32) + 1
    np.testing.assert_array_equal(activation(torch.from_numpy(values)).numpy(), values)  # no range yet
    for low, high in ((-1.5, 3.0), (0.5, 2.0), (-2.0, -1.0)):
        activation.calibrate(low, high)
        for learned in (False, True):
            other = Activation(learned=learned).eval()
            other.calibrate(low, high)
            step = (max(high, 0) - min(low, 0)) / 255
            error = np.abs(other(torch.from_numpy(values)).detach().numpy() - fake(values, low, high))
            assert (error > step / 2).mean() < 0.05  # halves may go either way
            assert error.max() < 1.01 * step


@settings(max_examples=50, deadline=None)
@given(
    kernel=arrays(np.float32, (4, 3, 2), elements=st.floats(-4, 4, width=32)),
    bits=st.sampled_from((8, 4)),
    groups=st.sampled_from((0, 1, 2)),
    learned=st.booleans(),
)
def test_snapped_kernels_are_found_again_by_their_largest_value(
    kernel: Array, bits: int, groups: int, learned: bool
) -> None:
    quantizer, values = Kernel(bits=bits, groups=groups), torch.from_numpy(kernel)
    if learned:
        quantizer.learn(values)
    snapped = quantizer.snapped(values)
    found, scale = on_grid(quantizer.rows(snapped).numpy(), (0,), bits)
    np.testing.assert_allclose(found * scale, quantizer.rows(snapped).numpy(), rtol=1e-5, atol=1e-12)
    peaks = np.abs(quantizer.rows(values).numpy()).max(1)
    assert (np.abs(found).max(1)[peaks > 1e-9] == LARGEST[bits]).all()
    assert (snapped.numpy()[kernel == 0] == 0).all()
    np.testing.assert_array_equal(quantizer._kernel(quantizer.rows(values), values.shape), values)
