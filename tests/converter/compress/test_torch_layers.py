"""Layers of PyTorch that are not like others: grouped and transposed, frozen, fixed in a buffer, of half precision."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as f

from edgeferry_converter.compress.grid import Grid
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context
from edgeferry_converter.compress.methods.channels import PruneChannels
from edgeferry_converter.compress.network import CROSS_ENTROPY, Course, Objective
from edgeferry_converter.compress.on_torch.fake_quantizers import Kernel
from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.sources.torch_shapes import call_by_name, observed_outputs
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import TensorSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

LESSONS = Lessons({"image": np.random.default_rng(0).random((8, 3, 8, 8), np.float32)}, np.arange(8) % 3)
OBJECTIVE = Objective(CROSS_ENTROPY, "output_0")


def _network(module: nn.Module) -> TorchNetwork:
    call = call_by_name(module.eval(), {"image": torch.zeros(1, 3, 8, 8)}, [])
    inputs = (TensorSpec("image", (-1, 3, 8, 8), "float32"),)
    return TorchNetwork("m", call, (inputs, observed_outputs("module", call, inputs)))  # type: ignore[arg-type]


def _picture(*layers: nn.Module, channels: int) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    made.forward = lambda image: nn.Sequential.forward(made, image)  # type: ignore[method-assign]
    return made


class Blurred(nn.Module):
    """A fixed kernel in a buffer, and a convolution that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3).requires_grad_(False), nn.Linear(8, 3)
        self.register_buffer("blur", torch.rand(8, 1, 3, 3))

    def forward(self, image: torch.Tensor) -> Any:
        return self.head(f.conv2d(f.relu(self.conv(image)), self.blur, groups=8).mean((2, 3)))


class Half(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(192, 3).to(dtype)

    def forward(self, image: torch.Tensor) -> Any:
        return self.dense(image.flatten(1).to(self.dense.weight.dtype)).float()


def test_a_grouped_transposed_kernel_of_one_output_a_group_is_not_depthwise() -> None:
    network = _network(_picture(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3, groups=4), channels=4))
    assert [weight.kind for weight in network.weights()] == ["convolution", "transposed", "dense"]
    assert network.channels().kept == {"1": "it is transposed, and has groups"}


def test_axes_of_transposed_kernels() -> None:
    layers = nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 3, groups=8)
    whole, depthwise, _ = _network(_picture(*layers, channels=8)).weights()
    assert (whole.kind, whole.inputs, whole.outputs) == ("transposed", (0, 2, 3), (1,))
    assert (depthwise.kind, depthwise.inputs, depthwise.outputs) == ("depthwise", (2, 3), (0,))


def test_gradients_come_to_what_is_not_trained_and_leave_no_trace() -> None:
    network = _network(Blurred())
    names = ("conv.weight", "blur", "head.weight")
    batches = LESSONS.in_order(4)
    found = network.gradients(batches, OBJECTIVE, names)
    assert all(found[name].any() for name in names)
    assert not network.module.conv.weight.requires_grad
    assert not network.module.blur.requires_grad
    assert all(parameter.grad is None for parameter in network.module.parameters())
    apart = [network.gradients([batch], OBJECTIVE, names) for batch in batches]
    for name in names:
        np.testing.assert_allclose(found[name], (apart[0][name] + apart[1][name]) / 2, rtol=1e-5)


def test_training_in_bfloat16_goes_on_exactly() -> None:
    course = Course(OBJECTIVE, Train(epochs=2, optimizer="adam"), 4)
    whole, begun = _network(Half(torch.bfloat16)), _network(Half(torch.bfloat16))
    trainer = whole.trainer(course)
    trainer.epoch(LESSONS.shuffled(4, 0, 1), lambda step: None)
    begun.restore(whole.state())
    other = begun.trainer(course)
    other.restore(trainer.state())
    for one in (trainer, other):
        one.epoch(LESSONS.shuffled(4, 0, 2), lambda step: None)
    for name, values in whole.state().items():
        np.testing.assert_array_equal(begun.state()[name], values)


def test_quantization_is_trained_in_float32_alone() -> None:
    with pytest.raises(ConversionError, match=r"stores dense\.weight as bfloat16") as raised:
        _network(Half(torch.bfloat16)).simulated(Grid())
    assert "float()" in raised.value.fix


class Counting(nn.Module):
    """Multiplies by a number of channels, which no graph shows; its answers are small, as of many classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, image: torch.Tensor) -> Any:
        return 1e-4 * self.head(self.conv(image).mean((2, 3)) * self.conv.out_channels)


def test_the_trial_sees_what_small_answers_lose() -> None:
    graph = _network(Counting()).channels()
    reasons = {graph.frozen.get(int(number)) for number in graph.layers["conv"]}
    assert reasons == {"its removal changes more than its own part of the answer"}


class Tied(nn.Module):
    """Calls one convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        self.second = self.first

    def forward(self, image: torch.Tensor) -> Any:
        return self.head(self.second(f.relu(self.first(self.stem(image)))).mean((2, 3)))


def test_values_of_two_names_count_once() -> None:
    network = _network(Tied())
    assert network.channels().repeated == {"second.weight", "second.bias"}
    course = Course(OBJECTIVE, Train(batch_size=8), 1)
    context = Context(LESSONS, course, 0, False, lambda network: 0.0, lambda text: None)
    work = PruneChannels(parameters=0.5, criterion="l2", multiple_of=1).begin(network, context)
    assert (work.facts["parameters_before"], work.facts["parameters_after"]) == (
        network.parameters(),
        work.network.parameters(),
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_weight_of_a_channel_gets_its_gradient(bits: int) -> None:
    """It is the largest integer times the scale, give or take a rounding that must not count as clipped."""
    kernel = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    Kernel(bits=bits, groups=0)(kernel).sum().backward()
    assert kernel.grad is not None
    torch.testing.assert_close(kernel.grad, torch.ones(500, 8))
