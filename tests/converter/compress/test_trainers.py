"""Training in both frameworks: optimizers against their formulas, and training that goes on as if it never stopped."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context, read
from edgeferry_converter.compress.methods.teaching import Match, Teach
from edgeferry_converter.compress.network import CROSS_ENTROPY, SQUARED, Batch, Course, Objective
from edgeferry_converter.compress.rates import learning_rate
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.compress.teachers import teach
from edgeferry_runtime.errors import TrainingError
from edgeferry_runtime.tensors import Array

pytestmark = pytest.mark.slow
FRAMEWORKS = pytest.mark.parametrize("framework", ["keras", "torch"])
OBJECTIVE = Objective(CROSS_ENTROPY, "digit", probabilities=True)


def _twin(twins: ModuleType, framework: str, **options: Any) -> Any:
    return getattr(twins, f"{framework}_twin")("softmax", **options)


def _nothing(step: int) -> None:
    pass


def _by_hand(kernel: Array, batch: Batch, train: Train, steps: int, framework: str) -> Array:
    """Train a linear layer for the mean squared error in double precision, by the formulas of the papers."""
    x, y, w = batch.inputs["x"].astype(float), batch.truth.astype(float), kernel.astype(float)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        rate = learning_rate(train, t - 1, steps)
        gradient = 2 * x.T @ (x @ w - y) / y.size
        if train.clip_norm is not None:
            gradient *= min(1, train.clip_norm / np.linalg.norm(gradient))
        if train.optimizer == "adamw":
            w = w - rate * train.weight_decay * w
        else:
            gradient = gradient + train.weight_decay * w
        if train.optimizer == "sgd":
            m = train.momentum * m + (rate if framework == "keras" else 1) * gradient
            w = w - (1 if framework == "keras" else rate) * m
            continue
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


@FRAMEWORKS
@pytest.mark.parametrize(
    "train",
    [
        Train(optimizer="sgd", learning_rate=0.1, schedule="constant", weight_decay=0.05),
        Train(optimizer="sgd", learning_rate=0.1, schedule="linear", momentum=0.5, clip_norm=0.2),
        Train(optimizer="adam", learning_rate=0.05, schedule="cosine", weight_decay=0.05),
        Train(optimizer="adamw", learning_rate=0.05, schedule="linear", warmup=0.5, weight_decay=0.3),
    ],
    ids=lambda train: f"{train.optimizer}-{train.schedule}",
)
def test_every_optimizer_follows_its_formula(twins: ModuleType, framework: str, train: Train) -> None:
    network, random, steps = twins.line(framework), np.random.default_rng(1), 6
    batch = Batch({"x": random.normal(size=(8, 3)).astype(np.float32)}, random.normal(size=(8, 2)).astype(np.float32))
    name = network.weights()[0].name
    turned = framework == "torch"
    kernel = network.read(name).T if turned else network.read(name)
    counted: list[int] = []
    trainer = network.trainer(Course(Objective(SQUARED, "y"), train, steps))
    loss = trainer.epoch([batch] * steps, counted.append)
    assert counted == [1, 2, 3, 4, 5, 6]
    found = network.read(name).T if turned else network.read(name)
    np.testing.assert_allclose(found, _by_hand(kernel, batch, train, steps, framework), rtol=2e-5, atol=1e-6)
    assert 0 < loss < np.inf


@FRAMEWORKS
def test_the_loss_of_an_epoch_is_the_mean_of_all_samples(twins: ModuleType, framework: str) -> None:
    """A short last batch weighs as much as it has samples."""
    network, random = twins.line(framework), np.random.default_rng(1)
    x, y = (random.normal(size=(5, size)).astype(np.float32) for size in (3, 2))
    wanted = float(np.mean((network.predict({"x": x})["y"] - y) ** 2))
    trainer = network.trainer(Course(Objective(SQUARED, "y"), Train(optimizer="sgd", learning_rate=1e-9), 2))
    assert trainer.epoch(Lessons({"x": x}, y).in_order(4), _nothing) == pytest.approx(wanted, rel=1e-5)


@FRAMEWORKS
def test_a_network_that_is_frozen_is_not_trained(twins: ModuleType, framework: str) -> None:
    network = twins.line(framework)
    if framework == "keras":
        network.model.trainable = False
    else:
        network.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="has no values that are trained: all are frozen"):
        network.trainer(Course(Objective(SQUARED, "y"), Train(), 2))


@pytest.mark.parametrize(("framework", "optimizer"), [("keras", "adam"), ("torch", "adam"), ("torch", "sgd")])
def test_training_that_goes_on_is_the_same_bit_for_bit(twins: ModuleType, framework: str, optimizer: str) -> None:
    """With dropout, normalization, masks and a learned projection; as after a kill, in a network opened anew."""
    lessons = twins.lessons(40, framework)
    source = _twin(twins, framework, width=9)
    told = Teach(hints=(Match("early", "early"),), attention=(Match("late", "late"),))
    train = Train(epochs=4, batch_size=16, optimizer=optimizer)

    def begin() -> tuple[Any, Any, Lessons]:
        network = _twin(twins, framework, dropout=0.3)
        name = network.weights()[1].name
        network.mask({name: np.random.default_rng(0).random(network.read(name).shape) > 0.5})
        taught, objective = teach(told, lessons, OBJECTIVE, source, network)
        return network, network.trainer(Course(objective, train, 12, seed=3)), taught

    network, trainer, taught = begin()
    for epoch in range(4):
        if epoch == 2:
            kept = network.state(), trainer.state()
        trainer.epoch(taught.shuffled(16, 3, epoch), _nothing)
    again, resumed, taught = begin()
    again.restore(kept[0])
    resumed.restore(kept[1])
    for epoch in (2, 3):
        resumed.epoch(taught.shuffled(16, 3, epoch), _nothing)
    for name, values in network.state().items():
        np.testing.assert_array_equal(values, again.state()[name], err_msg=name)
    for name, values in trainer.state().items():
        np.testing.assert_array_equal(values, resumed.state()[name], err_msg=name)


@FRAMEWORKS
def test_dropout_hears_the_seed(twins: ModuleType, framework: str) -> None:
    lessons = twins.lessons(16, framework)
    losses = []
    for seed in (1, 2):  # that the same seed gives the same is told by training that goes on
        network = _twin(twins, framework, dropout=0.5)
        trainer = network.trainer(Course(OBJECTIVE, Train(), 4, seed))
        losses.append([trainer.epoch(lessons.in_order(8), _nothing) for _ in range(2)])
    assert losses[0] != losses[1]


@FRAMEWORKS
def test_masks_hold_after_every_step(twins: ModuleType, framework: str) -> None:
    network, lessons = _twin(twins, framework), twins.lessons(24, framework)
    name = network.weights()[0].name
    mask = np.random.default_rng(0).random(network.read(name).shape) > 0.5
    network.mask({name: mask})
    seen = []

    def look(step: int) -> None:
        values = network.read(name)
        seen.append((not values[~mask].any(), values[mask].all()))

    network.trainer(Course(OBJECTIVE, Train(optimizer="sgd"), 3)).epoch(lessons.in_order(8), look)
    assert seen == [(True, True)] * 3


@FRAMEWORKS
def test_normalization_learns_in_training_alone(twins: ModuleType, framework: str) -> None:
    network, lessons = _twin(twins, framework), twins.lessons(16, framework)
    moving = next(name for name in network.state() if "mean" in name)
    before = network.state()[moving]
    said = network.predict(lessons.inputs)["digit"]
    np.testing.assert_array_equal(network.state()[moving], before)
    trainer = network.trainer(Course(OBJECTIVE, Train(), 4))
    network.gradients([lessons.at(np.arange(4))], OBJECTIVE, [network.weights()[0].name])
    np.testing.assert_array_equal(network.state()[moving], before)
    trainer.epoch(lessons.in_order(8), _nothing)
    assert not np.array_equal(network.state()[moving], before)
    assert not np.array_equal(network.predict(lessons.inputs)["digit"], said)


@FRAMEWORKS
def test_sixteen_bits_are_only_for_training(twins: ModuleType, framework: str) -> None:
    lessons, losses = twins.lessons(32, framework), []
    source = _twin(twins, framework, width=9)
    told = Teach(hints=(Match("early", "early"),), attention=(Match("late", "late"),))
    for bits in ("never", "always"):
        network = _twin(twins, framework)
        taught, objective = teach(told, lessons, OBJECTIVE, source, network)
        trainer = network.trainer(Course(objective, Train(mixed_precision=bits), 8))
        losses.append([trainer.epoch(taught.in_order(8), _nothing) for _ in range(2)])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.03)
    assert {values.dtype for values in network.state().values()} <= {np.dtype("float32"), np.dtype("int64")}
    first = network.predict(lessons.inputs)["digit"]
    again = _twin(twins, framework)
    again.restore(network.state())
    np.testing.assert_array_equal(again.predict(lessons.inputs)["digit"], first)


def test_what_simulates_an_artifact_is_never_rounded_to_sixteen_bits(twins: ModuleType) -> None:
    from edgeferry_converter.compress.on_keras.mixing import wanted

    train, network = Train(mixed_precision="always"), twins.line("keras")
    assert wanted(train, network)
    network.settled = None
    assert not wanted(train, network)
    lessons, losses = twins.lessons(16, "torch"), []
    for bits in ("never", "always"):
        student = _twin(twins, "torch")
        student.settled = None
        trainer = student.trainer(Course(OBJECTIVE, Train(mixed_precision=bits), 2))
        losses.append(trainer.epoch(lessons.in_order(8), _nothing))
    assert losses[0] == losses[1]


@FRAMEWORKS
def test_a_loss_that_is_no_number_stops(twins: ModuleType, framework: str) -> None:
    lessons = Lessons({"x": np.ones((24, 3), np.float32)}, np.ones((24, 2), np.float32))
    lessons.inputs["x"][17] = np.nan
    network = twins.line(framework)
    trainer = network.trainer(Course(Objective(SQUARED, "y"), Train(), 3))
    with pytest.raises(TrainingError, match=r"line: the loss is nan in step 3; lower the learning rate"):
        trainer.epoch(lessons.in_order(8), _nothing)
    assert framework == "keras" or not network.module.training


@FRAMEWORKS
def test_batches_are_taken_one_by_one(twins: ModuleType, framework: str) -> None:
    lessons, made, ahead = Lessons({"x": np.ones((80, 3), np.float32)}, np.ones((80, 2), np.float32)), [], []

    def rows() -> Iterator[Batch]:
        for batch in lessons.in_order(8):
            made.append(len(batch.truth))
            yield batch

    trainer = twins.line(framework).trainer(Course(Objective(SQUARED, "y"), Train(), 10))
    trainer.epoch(rows(), lambda step: ahead.append(len(made) - step))
    assert sum(made) == 80
    assert max(ahead) <= 1


@FRAMEWORKS
def test_taught_students_come_closer_to_their_teacher(twins: ModuleType, framework: str) -> None:
    """Learning from soft targets, a hint and attention at once makes each of their losses smaller."""
    lessons = twins.lessons(64, framework)
    source, network = _twin(twins, framework, width=9), _twin(twins, framework)
    told = Teach(soft=1.0, hints=(Match("early", "early"),), attention=(Match("late", "late"),))
    taught, objective = teach(told, lessons, OBJECTIVE, source, network)
    trainer = network.trainer(Course(objective, Train(learning_rate=1e-2, schedule="constant"), 16))
    losses = [trainer.epoch(taught.shuffled(16, 0, epoch), _nothing) for epoch in range(4)]
    assert losses[-1] < 0.7 * losses[0]


@FRAMEWORKS
def test_a_simulated_artifact_is_taught_by_layers(twins: ModuleType, framework: str) -> None:
    lessons, source = twins.lessons(16, framework), _twin(twins, framework, width=9)
    told = Teach(soft=1.0, hints=(Match("late", "late"),), attention=(Match("late", "late"),))
    network = _twin(twins, framework)
    taught, objective = teach(told, lessons, OBJECTIVE, source, network)
    course = Course(objective, Train(mixed_precision="always"), 2)
    work = read({"method": "quantize"}).begin(network, Context(taught, course, 0, False, lambda _: 0.0, lambda _: None))
    before = work.network.state()
    assert np.isfinite(work.network.trainer(course).epoch(taught.in_order(8), work.after_step))
    changed = [name for name, values in work.network.state().items() if not np.array_equal(values, before[name])]
    assert any("early" in name for name in changed)
