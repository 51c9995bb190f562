"""What only Keras can get wrong: compiled steps, models of several inputs and outputs, layers inside of others."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import CROSS_ENTROPY, FEATURE, LOGITS, SQUARED, Course, Hint, Objective
from edgeferry_converter.compress.on_keras import losses
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import ConversionError, UnknownNameError

pytestmark = pytest.mark.slow


def _nothing(step: int) -> None:
    pass


def _two_lessons(count: int) -> Lessons:
    random = np.random.default_rng(0)
    inputs = {"z image": random.random((count, 8, 8, 1)), "meta.data": random.random((count, 3))}
    return Lessons({k: v.astype(np.float32) for k, v in inputs.items()}, random.integers(0, 10, count))


@pytest.mark.parametrize(("output", "loss"), [("scores", CROSS_ENTROPY), ("area", SQUARED)])
def test_one_of_several_outputs_is_trained(keras_two: Path, output: str, loss: str) -> None:
    from edgeferry_converter.compress.on_keras.network import open_network

    network, lessons = open_network(SourceSpec(keras_two)), _two_lessons(40)
    before = network.state()
    trainer = network.trainer(Course(Objective(loss, output, loss == CROSS_ENTROPY), Train(learning_rate=1e-2), 25))
    found = [trainer.epoch(lessons.shuffled(8, 0, epoch), _nothing) for epoch in range(5)]
    assert found[-1] < found[0]
    changed = {name.partition("/")[0] for name, values in network.state().items() if (values != before[name]).any()}
    other = {"scores": "area", "area": "scores"}[output]
    assert output in changed
    assert other not in changed
    assert {k: v.shape for k, v in network.predict(lessons.first(3).inputs).items()} == {
        "scores": (3, 10),
        "area": (3, 1),
    }


def test_a_step_is_traced_once(twins: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sees the loss when a step is compiled and not when it is taken, with a short batch in new epochs too."""
    traced, soft = [], losses._soft

    def counted(*arguments: Any) -> Any:
        traced.append(1)
        return soft(*arguments)

    monkeypatch.setattr(losses, "_soft", counted)
    lessons = twins.lessons(20)
    taught = {LOGITS: np.zeros((20, 4), np.float32), "feature:early": np.ones((20, 8, 8, 3), np.float32)}
    lessons = Lessons(lessons.inputs, lessons.truth, taught)
    objective = Objective(CROSS_ENTROPY, "digit", soft=0.5, hints=(Hint("early", FEATURE, 1.0, 3),))
    trainer = twins.keras_twin().trainer(Course(objective, Train(), 9))
    trainer.epoch(lessons.in_order(8), _nothing)
    once = len(traced)
    assert once <= 2  # the shapes alone, and the compiled step
    for epoch in (1, 2):
        trainer.epoch(lessons.shuffled(8, 0, epoch), _nothing)
    assert len(traced) == once


def test_what_is_learned_for_hints_is_not_in_the_model(twins: ModuleType, tmp_path: Path) -> None:
    from edgeferry_converter.compress.on_keras.network import open_network

    network, lessons = twins.keras_twin(), twins.lessons(16)
    names, before = set(network.state()), network.parameters()
    taught = Lessons(lessons.inputs, lessons.truth, {"feature:early": np.ones((16, 8, 8, 3), np.float32)})
    trainer = network.trainer(Course(Objective(CROSS_ENTROPY, "digit", hints=(Hint("early", channels=3),)), Train(), 2))
    first = trainer.state()
    trainer.epoch(taught.in_order(8), _nothing)
    learned = [k for k, v in first.items() if v.shape == (6, 3) and not np.array_equal(v, trainer.state()[k])]
    assert len(learned) == 3  # the projection, and Adam's two memories of it
    assert (set(network.state()), network.parameters()) == (names, before)
    saved = open_network(SourceSpec(network.save(tmp_path)))
    assert saved.parameters() == before
    np.testing.assert_array_equal(saved.predict(lessons.inputs)["digit"], network.predict(lessons.inputs)["digit"])


def test_layers_of_hints_must_be_the_models_own(twins: ModuleType) -> None:
    import keras

    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    inner = twins.keras_twin().model
    image = keras.Input((8, 8, 1), name="image")
    network = KerasNetwork("outer", keras.Model(image, inner(image)))
    output = network.outputs[0].name
    with pytest.raises(ConversionError, match="is inside of another model"):
        network.trainer(Course(Objective(CROSS_ENTROPY, output, hints=(Hint(network.layers()[0]),)), Train(), 1))
    with pytest.raises(UnknownNameError, match="unknown name 'nowhere'"):
        network.trainer(Course(Objective(CROSS_ENTROPY, output, hints=(Hint("nowhere"),)), Train(), 1))


def test_layers_inside_of_layers_compute_in_sixteen_bits_too(twins: ModuleType) -> None:
    import keras

    from edgeferry_converter.compress.on_keras.mixing import mixed
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    x = keras.Input((4, 8), name="x")
    attended = keras.layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    y = keras.layers.Dense(3, name="y")(keras.layers.Flatten()(attended))
    network = KerasNetwork("attending", keras.Model(x, y))
    query = network.model.get_layer("mha").query_dense
    with mixed(network):
        assert query.compute_dtype == "bfloat16"
        assert network.model.get_layer("y").compute_dtype == "float32"
    assert query.compute_dtype == "float32"
    lessons = Lessons({"x": np.ones((8, 4, 8), np.float32)}, np.zeros(8, np.int64))
    trainer = network.trainer(Course(Objective(CROSS_ENTROPY, "y"), Train(mixed_precision="always"), 1))
    assert np.isfinite(trainer.epoch(lessons.in_order(8), _nothing))
