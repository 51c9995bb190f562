"""The Keras simulation against the artifact: the same integers of weights, and activations within one step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_converter.compress.grid import Grid, Ranges, activation_scale, on_grid
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import Course, Objective
from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.on_keras.simulating import KerasSimulated
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.overrides import Override
from edgeferry_converter.quiet import quiet
from edgeferry_runtime.tensors import Array

pytestmark = pytest.mark.slow
pytest.importorskip("keras")
SAMPLES = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(32) % 10


def blocks(keras: Any) -> Any:
    """Return a model with all that is fused, shared or fixed."""
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="c1")(image)
    x = layers.BatchNormalization(name="b1")(x)
    first = layers.ReLU(max_value=6, name="r1")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="d1")(first)
    x = layers.ReLU(name="r2")(layers.BatchNormalization(name="b2")(x))
    x = layers.BatchNormalization(name="b3")(layers.Conv2D(8, 1, name="c2")(x))
    second = layers.ReLU(name="r3")(layers.Add(name="add")([x, first]))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="c3")(second)
    x = layers.MaxPooling2D(name="mp")(layers.Concatenate(name="cat")([x, second]))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="t1")(x)
    x = layers.Activation("silu", name="r4")(layers.BatchNormalization(name="b4")(x))
    x = layers.Flatten(name="flat")(layers.AveragePooling2D(2, name="ap")(x))
    x = layers.Dense(16, activation="tanh", name="fc1")(layers.Dropout(0.2, name="drop")(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="fc2")(x))


@pytest.fixture(scope="module")
def network() -> KerasNetwork:
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        model = blocks(keras)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return KerasNetwork("blocks", model)


def trained(network: KerasNetwork, grid: Grid, steps: int = 3) -> KerasSimulated:
    simulated = network.simulated(grid)
    assert isinstance(simulated, KerasSimulated)
    simulated.calibrate({"image": SAMPLES})
    course = Course(Objective("cross-entropy", "fc2", probabilities=True), Train(learning_rate=0.01), steps)
    batches = Lessons({"image": SAMPLES}, LABELS).in_order(32)
    trainer = simulated.trainer(course)
    for _ in range(steps):
        trainer.epoch(batches, lambda step: None)
    simulated.calibrate({"image": SAMPLES})
    return simulated


class Made(NamedTuple):
    """A simulation, what it settled to, and the artifact's tensors."""

    simulated: KerasSimulated
    settled: KerasNetwork
    ranges: Ranges
    interpreter: Any


def made(network: KerasNetwork, grid: Grid, folder: Path, **changes: Any) -> Made:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    simulated = trained(network, grid)
    settled, ranges = simulated.settled()
    np.savez(folder / "samples.npz", image=SAMPLES)
    source = settled.save(folder)
    bundle = convert(source, folder / "bundle", quantize=grid.precision, **changes)
    interpreter = Interpreter(
        str(bundle.artifact),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return Made(simulated, settled, ranges, interpreter)


@pytest.fixture(scope="module")
def int8(network: KerasNetwork, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("int8")
    return made(network, Grid(), folder, calibrate=folder / "samples.npz")


def weights_of(made: Made) -> dict[str, Array]:
    """Return the artifact's integers by layer, each channel's last."""
    found = {}
    for weight in made.settled.weights():
        pattern = re.compile(rf"(^|/){weight.layer}(_\d+)?/(convolution|depthwise|conv_transpose|MatMul)$")
        named = [d for d in made.interpreter.get_tensor_details() if pattern.search(d["name"].split(";")[-1])]
        detail = next(d for d in named if d["dtype"] is np.int8 and d["quantization_parameters"]["scales"].size > 1)
        values = made.interpreter.get_tensor(detail["index"])
        if weight.kind == "transposed":
            values = values.transpose(1, 2, 0, 3)
        elif weight.kind == "convolution":
            values = values.transpose(1, 2, 3, 0)
        elif weight.kind == "dense":
            values = values.T
        found[weight.layer] = values.reshape(weight.shape)
    return found


def integers(made: Made) -> dict[str, Array]:
    """Return the integers that training computed with, by layer."""
    found = {}
    for name, wrapper in made.simulated._kernels.items():
        kernel = wrapper.inner.kernel
        steps = np.array(wrapper.kernel_on_grid(kernel.value)) / np.array(wrapper.scale(kernel.value))
        found[name.split("/")[0]] = np.rint(steps).astype(np.int8)
    return found


def test_the_artifact_has_the_integers_of_the_simulation(int8: Made) -> None:
    stored, wanted = weights_of(int8), integers(int8)
    assert set(stored) == set(wanted) == {"c1", "d1", "c2", "c3", "t1", "fc1", "fc2"}
    for layer, values in wanted.items():
        np.testing.assert_array_equal(stored[layer], values, layer)


def with_pooled(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Return the ranges, that of average pooling among them: its input's."""
    return {**ranges.ranges, "ap": ranges.ranges["r4"]}


def stored_activations(made: Made, sample: Array) -> dict[str, Array]:
    """Run the artifact and return what each rounding of the simulation is there, as floats of the trained grid."""
    made.interpreter.get_signature_runner()(image=sample)
    found = {}
    for detail in made.interpreter.get_tensor_details():
        scales = detail["quantization_parameters"]["scales"]
        if detail["dtype"] is not np.int8 or scales.size != 1 or detail["shape"][0] != 1:
            continue
        for key, (low, high) in with_pooled(made.ranges).items():
            scale, zero = activation_scale(low, high)
            name = "quantized" if key == "image" else rf"(^|/){key.split('/')[0]}(_\d+)?/"
            if re.search(name, detail["name"]) and np.isclose(scales[0], scale, rtol=1e-5):
                stored = made.interpreter.get_tensor(detail["index"]).astype(np.int64)
                found.setdefault(key, ((stored - zero) * scale).astype(np.float32))
    return found


BEFORE = {
    "r1": ("image",),
    "r2": ("r1",),
    "c2": ("r2",),
    "r3": ("c2", "r1"),
    "cat": ("r3",),
    "t1": ("cat",),
    "r4/sigmoid": ("t1",),
    "r4": ("t1", "r4/sigmoid"),
    "ap": ("r4",),
    "fc1/linear": ("ap",),
    "fc1": ("fc1/linear",),
    "fc2/linear": ("fc1",),
}
"""What each activation is computed of."""


def test_every_operator_is_within_one_step_of_the_simulation(int8: Made) -> None:
    import keras

    rounded = {key: rounding.layer.output for key, rounding in int8.simulated._roundings.items()}
    rounded["ap"] = int8.simulated.model.get_layer("ap_range").output
    models = {key: keras.Model([rounded[b] for b in before], rounded[key]) for key, before in BEFORE.items()}
    for sample in SAMPLES[:4]:
        stored = stored_activations(int8, sample[np.newaxis])
        for key, before in BEFORE.items():
            wanted = np.asarray(models[key]([stored[b] for b in before]))
            scale, _ = activation_scale(*with_pooled(int8.ranges)[key])
            assert np.abs(stored[key] - wanted).max() < 1.01 * scale, key


def test_the_answers_are_within_two_steps_from_end_to_end(int8: Made) -> None:
    runner = int8.interpreter.get_signature_runner()
    stored = np.concatenate([next(iter(runner(image=sample[np.newaxis]).values())) for sample in SAMPLES])
    steps = np.abs(stored - int8.simulated.predict({"image": SAMPLES})["fc2"]) * 256
    assert steps.max() <= 2
    assert (steps > 0.5).mean() < 0.2


def test_what_the_converter_fuses_is_one_tensor(int8: Made) -> None:
    assert list(int8.simulated._roundings) == [
        *("image", "r1", "r2", "c2", "r3", "cat", "t1", "r4/sigmoid", "r4", "fc1/linear", "fc1", "fc2/linear", "fc2")
    ]


def test_int4_weights_are_the_integers_of_the_simulation(network: KerasNetwork, tmp_path: Path) -> None:
    precision = "weight-only-int4"
    bits = {w.name: 8 for w in network.weights() if w.kind != "dense" and w.layer != "c3"}
    override = (Override(precision, layer="*c3*", operator="CONV_2D"),)
    found = made(network, Grid(precision, 4, False, True, bits), tmp_path, override=override)
    weights, wanted = weights_of(found), integers(found)
    for layer, values in wanted.items():
        np.testing.assert_array_equal(weights[layer], values, layer)
        assert np.abs(values).max() == (7 if layer in ("fc1", "fc2", "c3") else 127)


def test_the_settled_network_is_plain_and_has_the_names_that_it_had(int8: Made, tmp_path: Path) -> None:
    import keras

    source = int8.settled.save(tmp_path)
    loaded = keras.saving.load_model(source, compile=False)
    assert [layer.name for layer in loaded.layers if layer.name[0] != "b"] == [
        *("image", "c1", "r1", "d1", "r2", "c2", "add", "r3", "c3", "cat", "mp", "t1", "r4", "ap", "flat", "drop"),
        *("fc1", "fc2"),
    ]
    assert {type(layer).__module__.split(".")[0] for layer in loaded.layers} == {"keras"}


def test_moments_are_those_of_the_settled_network(int8: Made) -> None:
    values = int8.settled.features({"image": SAMPLES}, ["r3"])["r3"]
    moments = int8.ranges.moments["r3"]
    np.testing.assert_allclose([moments.low, moments.high], [values.min(), values.max()], rtol=1e-5)
    np.testing.assert_allclose(moments.mean, values.mean(), rtol=1e-4)
    assert moments.count == values[0].size


def test_settled_weights_are_on_their_grid(int8: Made) -> None:
    for weight in int8.settled.weights():
        values = int8.settled.read(weight.name)
        found, scale = on_grid(values, weight.outputs)
        np.testing.assert_allclose(found * scale, values, rtol=1e-6)
