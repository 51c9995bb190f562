"""The method quantize: its options, and what it does to a Keras network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress.grid import on_grid
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context, name_of, read
from edgeferry_converter.compress.methods.quantizing import Quantize, Quantizing
from edgeferry_converter.compress.network import Course, Objective
from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.overrides import Override
from edgeferry_converter.quiet import quiet
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.errors import ConversionError, UnknownNameError, UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(48, 8, 8, 1)).astype(np.float32)
LESSONS = Lessons({"image": IMAGES}, np.arange(48) % 3)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"precision": "fp16"}, UnknownNameError),
        ({"ranges": "guessed"}, UnknownNameError),
        ({"convolutions": "int2"}, UnknownNameError),
        ({"convolutions": "int4"}, UsageError),
        ({"freeze": 2}, UsageError),
        ({"samples": 0}, UsageError),
        ({"override": "conv"}, UsageError),
        ({"override": [{"layer": "conv", "precision": "int16x8"}]}, UsageError),
        ({"override": [{"layr": "conv", "precision": "int8"}]}, UnknownNameError),
    ],
)
def test_bad_options_are_refused(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read({"method": "quantize", **values})


def test_options_are_read_from_a_table() -> None:
    found = read({"method": "quantize", "override": [{"operator": "CONV_2D", "precision": "none"}]})
    assert found == Quantize(override=(Override("none", operator="CONV_2D"),))
    assert name_of(found) == "quantize"


def model(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image)))
    x = layers.DepthwiseConv2D(3, activation="silu", name="depth")(x)
    return keras.Model(image, layers.Dense(3, name="scores")(layers.Flatten(name="flat")(x)))


@pytest.fixture
def network() -> KerasNetwork:
    pytest.importorskip("keras")
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        return KerasNetwork("small", model(keras))


def context(steps: int, *, strict: bool = False, said: list[str] | None = None) -> Context:
    course = Course(Objective("cross-entropy", "scores"), Train(learning_rate=0.01), steps)
    notes = [] if said is None else said
    return Context(LESSONS, course, 0, strict, lambda network: 0.0, notes.append)


def train(work: Quantizing, context: Context, epochs: int) -> list[float]:
    trainer = work.network.trainer(context.course)
    return [trainer.epoch(LESSONS.in_order(24), work.after_step) for _ in range(epochs)]


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["observed", "learned"])
def test_training_settles_on_the_grid(network: KerasNetwork, ranges: str) -> None:
    told = context(8)
    work = Quantize(ranges=ranges).begin(network, told)
    losses = train(work, told, 4)
    assert losses[-1] < losses[0]
    before = work.network.predict({"image": IMAGES})["scores"]
    settled = work.finish()
    np.testing.assert_allclose(settled.predict({"image": IMAGES})["scores"], before, atol=0.1)
    for weight in settled.weights():
        assert (np.abs(on_grid(settled.read(weight.name), weight.outputs)[0]).max() == 127).all()
    assert work.facts["layers"] == {"conv": "int8", "depth": "int8", "scores": "int8"}
    places = {"image", "relu", "depth/linear", "depth/sigmoid", "depth", "scores"}
    assert set(work.ranges.ranges) == set(work.ranges.moments) == places
    assert len(work.ranges.samples["image"]) == 32


@pytest.mark.slow
def test_training_goes_on_exactly_from_a_state(network: KerasNetwork) -> None:
    told = context(4)
    first = Quantize(ranges="learned").begin(network.clone(), told)
    train(first, told, 1)
    second = Quantize(ranges="learned").begin(network, told)
    second.network.restore(first.network.state())
    feeds = {"image": IMAGES}
    np.testing.assert_array_equal(*(work.network.predict(feeds)["scores"] for work in (first, second)))
    assert first.finish().state().keys() == second.finish().state().keys()
    assert first.ranges.ranges == second.ranges.ranges


@pytest.mark.slow
def test_observed_ranges_come_to_rest(network: KerasNetwork) -> None:
    told = context(4)
    work = Quantize(freeze=0.5).begin(network, told)
    start = work.network.settled()[1].ranges
    train(work, told, 1)
    middle = work.network.settled()[1].ranges
    train(work, told, 1)
    assert start["relu"] != middle["relu"]
    assert middle == work.network.settled()[1].ranges


@pytest.mark.slow
def test_pruned_weights_stay_zero(network: KerasNetwork) -> None:
    pruned = network.read("scores/kernel")
    pruned[::2] = 0
    network.write("scores/kernel", pruned)
    told = context(2)
    work = Quantize().begin(network, told)
    train(work, told, 1)
    settled = work.finish().read("scores/kernel")
    np.testing.assert_array_equal((settled == 0)[::2], True)
    assert (settled != pruned).any()


@pytest.mark.slow
def test_int4_goes_where_it_can(network: KerasNetwork) -> None:
    options = Quantize("weight-only-int4", convolutions="int4", override=({"layer": "scores", "precision": "none"},))
    told = context(2)
    work = options.begin(network, told)
    assert work.facts["layers"] == {"conv": "int4", "depth": "int8", "scores": "float32"}
    settled = work.finish()
    assert (np.abs(on_grid(settled.read("conv/kernel"), (3,), 4)[0]).max((0, 1, 2)) == 7).all()
    np.testing.assert_array_equal(settled.read("scores/kernel"), network.read("scores/kernel"))
    assert not work.ranges.ranges
    recipe = options.converted_by(Recipe(), settled)
    assert recipe.quantize == "weight-only-int4"
    assert recipe.override == (Override("weight-only-int4", operator="CONV_2D"), Override("none", layer="scores"))
    with pytest.raises(UsageError, match="depthwise"):
        options.converted_by(Recipe(to="onnx"), settled)


@pytest.mark.slow
def test_overrides_that_cannot_be_are_refused(network: KerasNetwork) -> None:
    for table in ({"layer": "depth", "precision": "dynamic-int4"}, {"layer": "nothing", "precision": "int8"}):
        with pytest.raises(UsageError):
            Quantize(override=(table,)).begin(network, context(1))


@pytest.mark.slow
def test_rounding_by_samples_contradicts_what_was_trained(network: KerasNetwork) -> None:
    with pytest.raises(UsageError, match="other integers"):
        Quantize().converted_by(Recipe(rounding="gptq", calibrate=Path("x.npz")), network)


def untidy(keras: Any) -> Any:
    """Return a model with a model inside, a shared layer, and normalization that nothing can take."""
    layers = keras.layers
    inside = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")], name="body"
    )
    image = keras.Input((8, 8, 1), name="image")
    x = inside(image, training=False)
    shared = layers.Conv2D(4, 3, padding="same", name="twice")
    x = layers.BatchNormalization(name="late")(layers.ReLU(name="relu")(shared(shared(x))))
    x = layers.LayerNormalization(name="strange")(x) + 1.0
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model({"image": image}, {"scores": layers.Dense(3, name="conv")(x)})


@pytest.mark.slow
def test_what_is_not_simulated_as_a_whole_is_named() -> None:
    pytest.importorskip("keras")
    import keras

    network, said = KerasNetwork("untidy", untidy(keras)), []
    told = context(2, said=said)
    work = Quantize().begin(network, told)
    kept = work.facts["kept"]
    assert set(kept) == {"late", "strange"}
    assert "cannot be folded" in kept["late"]
    assert "not known" in kept["strange"]
    assert len(said) == 2
    assert work.facts["layers"] == {"body/conv": "int8", "twice": "int8", "conv": "int8"}
    feeds = {"image": IMAGES}
    name = network.outputs[0].name
    wanted = network.predict(feeds)[name]
    settled = work.finish()
    np.testing.assert_allclose(settled.predict(feeds)[name], wanted, atol=0.05)
    assert settled.outputs == network.outputs
    assert "body_conv" in settled.layers()
    with pytest.raises(ConversionError, match="late"):
        Quantize().begin(network, context(2, strict=True))


@pytest.mark.slow
def test_a_network_in_quantization_cannot_be_pruned(network: KerasNetwork) -> None:
    simulated = Quantize().begin(network, context(1)).network
    for refused in (simulated.channels, lambda: simulated.resized({})):
        with pytest.raises(ConversionError, match="before you quantize"):
            refused()
    assert simulated.parameters() == simulated.settled()[0].parameters()
    feeds = {"image": IMAGES}
    np.testing.assert_array_equal(*(n.predict(feeds)["scores"] for n in (simulated, simulated.clone())))
    with pytest.raises(UnknownNameError):
        simulated.features(feeds, ["nothing"])
    assert simulated.features(feeds, ["depth"])["depth"].min() < 0
