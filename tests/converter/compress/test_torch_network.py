"""PyTorch networks: their values, features, gradients, masks, and training that goes on exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as f

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import CROSS_ENTROPY, LOSSES, Course, Objective
from edgeferry_converter.compress.on_torch.network import TorchNetwork, open_network
from edgeferry_converter.compress.rates import learning_rate
from edgeferry_converter.compress.recipe import OPTIMIZERS, SCHEDULES, Train
from edgeferry_converter.sources import SourceSpec
from edgeferry_converter.sources.torch_shapes import call_by_name, observed_outputs
from edgeferry_runtime.errors import ConversionError, TrainingError, UnknownNameError
from edgeferry_runtime.tensors import TensorSpec

pytestmark = pytest.mark.slow


class Small(nn.Module):
    """A convolution, normalization with a counter, dropout, a layer that is called twice, and one that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.still = nn.Conv2d(4, 4, 1)
        self.still.requires_grad_(False)
        self.drop, self.twice, self.out = nn.Dropout(0.3), nn.Linear(4, 4), nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.still(torch.relu(self.norm(self.conv(image)))).mean((2, 3))
        return self.out(self.twice(torch.relu(self.twice(self.drop(x)))))


class Tokens(nn.Module):
    """Whole numbers in, and attention and a recurrent layer that answer several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.attention, self.cell = nn.MultiheadAttention(6, 2, batch_first=True), nn.GRU(6, 5, batch_first=True)
        self.act, self.out = nn.ReLU(), nn.Linear(5, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        x = self.act(x + self.attention(x, x, x)[0])
        return self.out(self.cell(x)[0][:, -1])


def network(module: nn.Module, **examples: torch.Tensor) -> TorchNetwork:
    call = call_by_name(module.eval(), examples, [])
    shapes = {name: (-1, *tensor.shape[1:]) for name, tensor in examples.items()}
    inputs = tuple(TensorSpec(k, shapes[k], str(t.dtype).removeprefix("torch.")) for k, t in examples.items())
    return TorchNetwork("module", call, (inputs, observed_outputs("module", call, inputs)))  # type: ignore[arg-type]


@pytest.fixture
def small() -> TorchNetwork:
    torch.manual_seed(0)
    return network(Small(), image=torch.rand(1, 1, 6, 6))


@pytest.fixture
def tokens() -> TorchNetwork:
    torch.manual_seed(0)
    return network(Tokens(), tokens=torch.zeros(1, 4, dtype=torch.int64))


@pytest.fixture
def lessons() -> Lessons:
    random = np.random.default_rng(0)
    return Lessons({"image": random.random((20, 1, 6, 6), np.float32)}, random.integers(0, 3, 20))


def course(steps: int = 12, **train: Any) -> Course:
    return Course(Objective(CROSS_ENTROPY, "output_0"), Train(batch_size=8, learning_rate=0.05, **train), steps)


def nothing(_: int) -> None:
    return None


def assert_same(left: TorchNetwork, right: TorchNetwork) -> None:
    for name, values in left.state().items():
        np.testing.assert_array_equal(values, right.state()[name], err_msg=name)


def test_values_by_name(small: TorchNetwork) -> None:
    state = small.state()
    assert state["norm.num_batches_tracked"].dtype == np.int64
    assert small.parameters() == sum(v.size for v in state.values()) - 1
    other = small.clone()
    other.write("conv.weight", np.zeros_like(other.read("conv.weight")))
    assert small.read("conv.weight").any()
    other.restore(state)
    assert_same(small, other)
    with pytest.raises(ConversionError, match="does not fit"):
        other.restore({**state, "conv.weight": np.zeros((1, 1))})


def test_values_that_cannot_be_written_to_are_read(small: TorchNetwork) -> None:
    fixed = np.broadcast_to(np.float32(0.5), (4, 1, 3, 3))
    small.write("conv.weight", fixed)
    small.mask({"conv.weight": np.broadcast_to(np.array(True), (4, 1, 3, 3))})
    small.predict({"image": np.broadcast_to(np.float32(1), (2, 1, 6, 6))})
    np.testing.assert_array_equal(small.read("conv.weight"), fixed)


def test_half_precision_survives(small: TorchNetwork) -> None:
    small.module.to(torch.bfloat16)
    state = small.state()
    assert state["conv.weight"].dtype == np.float32
    other = small.clone()
    other.write("conv.weight", state["conv.weight"] * 2)
    other.restore(state)
    assert torch.equal(other.module.conv.weight, small.module.conv.weight)


def test_kernels(small: TorchNetwork) -> None:
    assert [(w.name, w.kind, w.inputs, w.outputs) for w in small.weights()][:3] == [
        ("conv.weight", "convolution", (1, 2, 3), (0,)),
        ("still.weight", "convolution", (1, 2, 3), (0,)),
        ("twice.weight", "dense", (1,), (0,)),
    ]
    small.module.twice = nn.utils.parametrizations.weight_norm(small.module.twice)
    assert "twice.weight" not in [w.name for w in small.weights()]


def test_kernels_of_every_kind() -> None:
    module = nn.Sequential(nn.Conv1d(4, 8, 3, groups=4), nn.ConvTranspose1d(8, 6, 2), nn.Conv1d(6, 6, 1, groups=2))
    found = network(module, input=torch.rand(1, 4, 9)).weights()
    assert [(w.kind, w.inputs, w.outputs) for w in found] == [
        ("depthwise", (2,), (0,)),
        ("transposed", (0, 2), (1,)),
        ("convolution", (1, 2), (0,)),
    ]


def test_shared_values_count_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    made = network(module, input=torch.rand(1, 4))
    assert made.parameters() == 16
    assert [w.name for w in made.weights()] == ["0.weight"]


def test_features(small: TorchNetwork) -> None:
    feeds = {"image": np.random.default_rng(0).random((2, 1, 6, 6), np.float32)}
    found = small.features(feeds, ["conv", "twice"])
    with torch.no_grad():
        conv = small.module.conv(torch.from_numpy(feeds["image"]))
        out = small.module.out(torch.from_numpy(found["twice"]))
    np.testing.assert_allclose(found["conv"], conv.movedim(1, -1), rtol=1e-6)
    np.testing.assert_allclose(out, small.predict(feeds)["output_0"], rtol=1e-5)
    with pytest.raises(UnknownNameError, match="did you mean 'conv'"):
        small.features(feeds, ["convv"])
    assert not small.module.conv._forward_hooks


def test_features_of_tokens(tokens: TorchNetwork) -> None:
    found = tokens.features({"tokens": np.arange(8).reshape(2, 4)}, ["table", "attention", "cell", "act"])
    assert {name: values.shape for name, values in found.items()} == {
        "table": (2, 4, 6),
        "attention": (2, 4, 6),
        "cell": (2, 4, 5),
        "act": (2, 4, 6),
    }


def test_gradients_are_those_of_autograd(small: TorchNetwork, lessons: Lessons) -> None:
    found = small.gradients(lessons.in_order(10), course().objective, ["conv.weight", "twice.weight"])
    module = small.clone().module.eval()
    loss = f.cross_entropy(module(torch.from_numpy(lessons.inputs["image"])), torch.from_numpy(lessons.truth))
    expected = torch.autograd.grad(loss, [module.conv.weight, module.twice.weight])
    np.testing.assert_allclose(found["conv.weight"], expected[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["twice.weight"], expected[1], rtol=1e-4, atol=1e-7)
    assert small.module.conv.weight.grad is None


def test_gradients_are_of_what_something_depends_on_trained_or_not(small: TorchNetwork, lessons: Lessons) -> None:
    found = small.gradients(lessons.in_order(10), course().objective, ["unused.weight", "still.weight"])
    assert found["unused.weight"].shape == (2, 2)
    assert not found["unused.weight"].any()
    assert found["still.weight"].any()
    assert not small.module.still.weight.requires_grad


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [*((one, "cosine") for one in OPTIMIZERS), *(("sgd", one) for one in SCHEDULES)]
)
def test_training_goes_on_exactly(small: TorchNetwork, lessons: Lessons, optimizer: str, schedule: str) -> None:
    """Bit for bit, dropout included, as if it had never been interrupted."""
    plan = course(optimizer=optimizer, schedule=schedule, weight_decay=0.01, warmup=0.2, clip_norm=1.0)
    trainer = small.trainer(plan)
    trainer.epoch(lessons.shuffled(8, 0, 0), nothing)
    kept, memory = small.clone(), {name: np.copy(values) for name, values in trainer.state().items()}
    losses = [trainer.epoch(lessons.shuffled(8, 0, epoch), nothing) for epoch in (1, 2)]
    torch.manual_seed(99)
    again = kept.trainer(plan)
    again.restore(memory)
    assert losses == [again.epoch(lessons.shuffled(8, 0, epoch), nothing) for epoch in (1, 2)]
    assert_same(small, kept)


def test_what_is_remembered_survives_a_file(small: TorchNetwork, lessons: Lessons, tmp_path: Path) -> None:
    trainer = small.trainer(course(optimizer="adamw"))
    trainer.epoch(lessons.in_order(8), nothing)
    np.savez(tmp_path / "memory.npz", **trainer.state())
    with np.load(tmp_path / "memory.npz", allow_pickle=False) as memory:
        again = small.clone().trainer(course(optimizer="adamw"))
        again.restore(memory)
    for name, values in trainer.state().items():
        np.testing.assert_array_equal(values, again.state()[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_the_optimizer(small: TorchNetwork, lessons: Lessons, optimizer: str) -> None:
    """The same steps by hand, with PyTorch's own optimizer at the rates of the schedule."""
    small.module.drop.p = 0.0
    plan = course(optimizer=optimizer, schedule="cosine", weight_decay=0.1, momentum=0.8)
    module = small.clone().module.train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    hand = (
        torch.optim.SGD(parameters, 0.05, momentum=0.8, weight_decay=0.1)
        if optimizer == "sgd"
        else kinds[optimizer](parameters, 0.05, weight_decay=0.1)
    )
    for step, batch in enumerate(lessons.in_order(8)):
        hand.param_groups[0]["lr"] = learning_rate(plan.train, step, plan.steps)
        hand.zero_grad()
        f.cross_entropy(module(torch.from_numpy(batch.inputs["image"])), torch.from_numpy(batch.truth)).backward()
        hand.step()
    small.trainer(plan).epoch(lessons.in_order(8), nothing)
    for name, tensor in module.state_dict().items():
        np.testing.assert_allclose(small.state()[name], tensor, rtol=1e-6, atol=1e-7)


def test_training_leaves_what_is_still(small: TorchNetwork, lessons: Lessons) -> None:
    before = small.state()
    small.trainer(course()).epoch(lessons.in_order(8), nothing)
    after = small.state()
    np.testing.assert_array_equal(after["still.weight"], before["still.weight"])
    assert after["norm.num_batches_tracked"] == 3
    assert (after["conv.weight"] != before["conv.weight"]).all()
    assert not small.module.training


def test_masks_hold_in_every_step(small: TorchNetwork, lessons: Lessons) -> None:
    mask = np.random.default_rng(0).random((4, 1, 3, 3)) < 0.5
    small.mask({"conv.weight": mask})
    seen: list[tuple[int, bool]] = []
    trainer = small.trainer(course(optimizer="adamw", weight_decay=0.1))
    trainer.epoch(lessons.in_order(8), lambda step: seen.append((step, bool(small.read("conv.weight")[~mask].any()))))
    assert seen == [(1, False), (2, False), (3, False)]
    assert (small.read("conv.weight")[mask] != 0).all()
    small.mask({})
    trainer.epoch(lessons.in_order(8), nothing)
    assert small.read("conv.weight")[~mask].any()
    assert not small.clone().masks


def test_a_loss_that_is_not_finite_stops_at_once(small: TorchNetwork, lessons: Lessons) -> None:
    lessons.inputs["image"][10] = np.nan
    steps: list[int] = []
    with pytest.raises(TrainingError, match="the loss is nan in step 2"):
        small.trainer(course()).epoch(lessons.in_order(8), steps.append)
    assert steps == [1]
    assert all(np.isfinite(small.read(weight.name)).all() for weight in small.weights())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("probabilities", [False, True])
def test_training_makes_every_loss_smaller(loss: str, probabilities: bool) -> None:
    torch.manual_seed(0)
    end = {False: nn.Identity(), True: nn.Softmax(1) if loss == CROSS_ENTROPY else nn.Sigmoid()}[probabilities]
    made = network(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), end), input=torch.rand(1, 3))
    x = np.random.default_rng(0).random((32, 3), np.float32)
    truth = (x[:, 0] > 0.5).astype(np.int64) if loss == CROSS_ENTROPY else (x[:, :2] > 0.5).astype(np.float32)
    plan = Course(Objective(loss, "output_0", probabilities=probabilities), Train(learning_rate=0.05), 60)
    trainer, lessons = made.trainer(plan), Lessons({"input": x}, truth)
    losses = [trainer.epoch(lessons.in_order(16), nothing) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert math.isfinite(losses[-1])


def test_whole_numbers_are_trained_on(tokens: TorchNetwork) -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(0, 9, (24, 4))
    lessons = Lessons({"tokens": numbers}, numbers[:, 0] % 3)
    trainer = tokens.trainer(course(steps=30))
    losses = [trainer.epoch(lessons.in_order(8), nothing) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_mixed_precision_keeps_values_in_full(small: TorchNetwork, lessons: Lessons) -> None:
    loss = small.trainer(course(mixed_precision="always")).epoch(lessons.in_order(8), nothing)
    assert math.isfinite(loss)
    assert {v.dtype for v in small.state().values()} == {np.dtype(np.float32), np.dtype(np.int64)}


def test_opened_from_a_factory(torch_factory: Any) -> None:
    made = open_network(SourceSpec.parse(torch_factory.text, torch_factory.pt, {"image": (-1, 1, 8, 8)}))
    assert (made.framework, [t.shape for t in made.inputs]) == ("torch", [(-1, 1, 8, 8)])
    assert made.origin is not None
    assert made.origin.factory == "Net"
    assert made.clone().origin == made.origin
    assert made.layers() == ("conv", "norm", "dense")
