"""The method: options, figures, refusals, and the smaller network that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import digits
from tests.converter.compress.structured_models import MODELS

from edgeferry_converter.compress import methods
from edgeferry_converter.compress.lessons import Lessons, predict
from edgeferry_converter.compress.methods import Context
from edgeferry_converter.compress.methods.channels import PruneChannels
from edgeferry_converter.compress.network import Course, Objective
from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.recipe import Train
from edgeferry_runtime.errors import ConversionError, TrainingError, UnknownNameError, UsageError

RESNET = "mlperf-tiny/benchmark/training/image_classification/trained_models/pretrainedResnet.h5"
TRAIN = Train(batch_size=64)


def context(network: Any, train: Train = TRAIN, *, strict: bool = False, warned: list[str] | None = None) -> Context:
    """Return what a method needs, with the digits."""
    data, steps = digits.load(), 1347 // train.batch_size * train.epochs
    lessons = Lessons({network.inputs[0].name: data.train_x}, data.train_y)
    course = Course(Objective("cross-entropy", network.outputs[0].name), train, steps)
    return Context(lessons, course, 0, strict, lambda _: 0.0, ([] if warned is None else warned).append)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "says no target"),
        ({"macs": 0.5, "channels": 0.5}, "says macs and channels"),
        ({"macs": 0}, "macs"),
        ({"parameters": 1.5}, "parameters"),
        ({"amounts": {"a": 2}}, "amounts.a"),
        ({"amounts": "a"}, "is no table"),
        ({"macs": 0.5, "least": -1}, "least"),
        ({"macs": 0.5, "multiple_of": 2.5}, "multiple_of"),
        ({"macs": 0.5, "skip": "conv"}, "is no list of names"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        methods.read({"method": "prune-channels", **options})


@pytest.mark.parametrize(
    ("options", "nearest"),
    [({"criterion": "l3"}, "l2"), ({"scope": "globally"}, "global"), ({"units": ["head"]}, "heads")],
)
def test_names_that_there_are_not_are_refused(options: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=nearest):
        PruneChannels(macs=0.5, **options)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["l1", "l2", "batch-norm", "taylor"])
def test_every_criterion_reaches_the_target(criterion: str) -> None:
    network = KerasNetwork("m", MODELS["sequential"]())
    skip = ["second", "third"] if criterion == "batch-norm" else []
    work = PruneChannels(channels=0.5, criterion=criterion, skip=skip, batches=2).begin(network, context(network))
    assert work.facts["layers"]["first"] == {
        "before": 16,
        "after": 8 if skip else work.facts["layers"]["first"]["after"],
    }
    assert work.facts["parameters_after"] == work.network.parameters() < work.facts["parameters_before"]
    assert work.facts["macs_after"] < work.facts["macs_before"]
    assert work.facts["kept"]["last"] == "it is an output of the model"


@pytest.mark.slow
def test_the_same_seed_removes_the_same() -> None:
    network = KerasNetwork("m", MODELS["sequential"]())
    one, two = (PruneChannels(macs=0.5, batches=2).begin(network, context(network)).network for _ in range(2))
    for name, values in one.state().items():
        np.testing.assert_array_equal(values, two.state()[name])


@pytest.mark.slow
def test_half_of_the_macs_and_a_few_epochs_cost_little() -> None:
    import keras

    keras.utils.set_random_seed(0)
    network = KerasNetwork("m", MODELS["sequential"]())
    train, data = Train(epochs=5, learning_rate=5e-3), digits.load()

    def trained(one: Any) -> float:
        around = context(one, train)
        trainer = one.trainer(around.course)
        for epoch in range(train.epochs):
            trainer.epoch(around.lessons.shuffled(32, 0, epoch), lambda _: None)
        answers = predict(one, {"image": data.test_x}, one.outputs[0].name)
        return float((answers.argmax(-1) == data.test_y).mean())

    before = trained(network)
    work = PruneChannels(macs=0.5).begin(network, context(network, train))
    assert work.facts["macs_after"] <= work.facts["macs_before"] / 2
    assert trained(work.finish()) > before - 0.03 > 0.8


@pytest.mark.slow
def test_what_cannot_be_pruned_is_named_or_refused() -> None:
    network = KerasNetwork("m", MODELS["transformer"]())
    warned: list[str] = []
    options = PruneChannels(parameters=0.8, criterion="l2")
    work = options.begin(network, context(network, warned=warned))
    assert any(line.startswith("table is left alone: ") for line in warned)
    assert "computes over all of its channels" in work.facts["kept"]["table"]
    with pytest.raises(ConversionError, match=r"its layer '.*' cannot be pruned \(.*LayerNormalization"):
        options.begin(network, context(network, strict=True))


@pytest.mark.slow
def test_outputs_alone_are_nothing_to_refuse() -> None:
    network = KerasNetwork("m", MODELS["residual"]())
    PruneChannels(macs=0.6, criterion="l2").begin(network, context(network, strict=True))


@pytest.mark.slow
def test_a_target_out_of_reach_names_what_holds_it_up() -> None:
    network = KerasNetwork("m", MODELS["sequential"]())
    with pytest.raises(TrainingError, match=r"m: macs = 0.01 cannot be reached: 0\.\d+ of the multiply-accumulates"):
        PruneChannels(macs=0.01, criterion="l2").begin(network, context(network))


@pytest.mark.slow
def test_macs_of_inputs_without_a_size_cannot_be_a_target() -> None:
    import keras

    image = keras.Input((None, None, 1), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3, name="conv")(image))
    network = KerasNetwork("m", keras.Model(image, keras.layers.Dense(2)(keras.layers.Dense(32)(x))))
    with pytest.raises(UsageError, match="cannot be counted, in conv"):
        PruneChannels(macs=0.5, criterion="l2").begin(network, context(network))
    facts = PruneChannels(parameters=0.5, criterion="l2").begin(network, context(network)).facts
    assert "parameters_after" in facts
    assert "macs_after" not in facts


@pytest.mark.slow
def test_mobilenet_v2_of_keras_becomes_half(zoo: Path) -> None:
    import keras

    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
    network = KerasNetwork("m", model)
    work = PruneChannels(macs=0.5, criterion="l2", scope="uniform").begin(network, context(network, strict=True))
    sizes = {name: (size["before"], size["after"]) for name, size in work.facts["layers"].items()}
    assert work.facts["macs_after"] <= work.facts["macs_before"] / 2
    assert sizes["block_14_project"] == sizes["block_15_project"]
    assert all(after < before for name, (before, after) in sizes.items() if name != "predictions")
    assert work.network.parameters() == work.facts["parameters_after"]
    answer = work.network.predict({network.inputs[0].name: np.zeros((1, 32, 32, 3), np.float32)})
    assert next(iter(answer.values())).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore:Argument `decay`")
def test_the_resnet_of_mlperf_tiny_becomes_half(zoo: Path) -> None:
    import keras

    network = KerasNetwork("m", keras.models.load_model(zoo / RESNET))
    work = PruneChannels(macs=0.5, criterion="batch-norm").begin(network, context(network))
    assert (work.facts["macs_before"], work.facts["macs_after"] <= 6_250_816) == (12_501_632, True)
    assert work.network.parameters() == work.facts["parameters_after"]
