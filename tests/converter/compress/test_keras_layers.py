"""Layers of Keras that are not like others: adapted, constrained, apart from the loss, named like a model around."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress.grid import Grid, on_grid
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import CROSS_ENTROPY, Batch, Course, Objective
from edgeferry_converter.compress.recipe import Train

pytestmark = pytest.mark.slow


def _network(model: Any) -> Any:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    return KerasNetwork("m", model)


def _answer(network: Any, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = network.predict({network.inputs[0].name: x})[network.outputs[0].name]
    return found


def _stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_copies_normalize_by_what_the_layer_adapted_to() -> None:
    import keras

    x = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
    adapted = keras.layers.Normalization()
    adapted.adapt(x)
    network = _network(keras.Sequential([keras.Input((4,)), adapted, keras.layers.Dense(3)]))
    expected = _answer(network, x)
    np.testing.assert_array_equal(_answer(network.clone(), x), expected)
    np.testing.assert_array_equal(_answer(network.resized(network.state()), x), expected)
    settled, _ = network.simulated(Grid("weight-only", activations=False)).settled()
    np.testing.assert_allclose(_answer(settled, x), expected, atol=0.02)


@pytest.mark.parametrize(("outer", "inner"), [("model", "l"), ("a", "a"), ("a", "b")])
def test_kernels_are_found_whatever_models_around_them_are_called(outer: str, inner: str) -> None:
    import keras

    part = keras.Sequential([keras.layers.Dense(8, name=inner)], name=outer)
    part.build((None, 4))
    for model in (part, keras.Sequential([keras.Input((4,)), part, keras.layers.Dense(2, name="head")])):
        network = _network(model)
        assert network.read(network.weights()[0].name).shape == (4, 8)
        assert {weight.name for weight in network.weights()} <= set(network.state())


def test_what_the_loss_does_not_depend_on_has_no_gradient() -> None:
    import keras

    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = keras.layers.Flatten()(keras.layers.Embedding(5, 3, name="table")(tokens))
    model = keras.Model(tokens, [keras.layers.Dense(3, name="a")(x), keras.layers.Dense(2, name="b")(x)])
    batch = Batch({"tokens": np.arange(24, dtype=np.int32).reshape(4, 6) % 5}, np.arange(4) % 3)
    names = ("table/embeddings", "a/kernel", "b/kernel")
    network = _network(model)
    found = network.gradients([batch], Objective(CROSS_ENTROPY, network.outputs[0].name), names)
    assert {name: bool(found[name].any()) for name in names} == {names[0]: True, names[1]: True, names[2]: False}
    assert {name: values.shape for name, values in found.items()} == {n: network.read(n).shape for n in names}


def test_a_constraint_does_not_bind_the_folded_kernel() -> None:
    """It was meant for the kernel before normalization gave it factors of any size."""
    import keras

    image = keras.Input((6, 6, 2))
    conv = keras.layers.Conv2D(4, 3, kernel_constraint=keras.constraints.MaxNorm(0.5), kernel_regularizer="l2")
    head = keras.layers.Dense(3, kernel_constraint="non_neg")
    norm = keras.layers.BatchNormalization()
    model = keras.Model(image, head(keras.layers.Flatten()(norm(conv(image)))))
    norm.moving_variance.assign(np.full(4, 1e-4))
    folded = _network(model).simulated(Grid()).plain
    first = next(layer for layer in folded.layers if layer.name == conv.name)
    assert np.linalg.norm(first.kernel.numpy()) > 10
    assert first.kernel.constraint is None
    assert folded.losses == []
    assert folded.layers[-1].kernel.constraint is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_an_artifact_is_simulated_in_float32(dtype: str) -> None:
    """A kernel of half precision cannot lie on its grid, and the rounding of activations would drown in its own."""
    import keras

    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, dtype=dtype, name="y")])
    network = _network(model)
    simulated = network.simulated(Grid())
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    simulated.calibrate({network.inputs[0].name: x})
    kernel = simulated.settled()[0].read("y/kernel")
    found, scale = on_grid(kernel, (1,))
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(found * scale, kernel, rtol=1e-6)
    np.testing.assert_allclose(_answer(simulated, x), _answer(network, x), atol=0.05)


def test_what_is_stored_in_bfloat16_is_counted_and_kept(tmp_path: Path) -> None:
    """NumPy has no such numbers, and would write bytes that nothing reads."""
    import keras

    network = _network(keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, dtype="bfloat16")]))
    assert network.parameters() == 15
    x = np.ones((8, 4), np.float32)
    course = Course(Objective(CROSS_ENTROPY, network.outputs[0].name), Train(batch_size=8), 1)
    trainer = network.trainer(course)
    trainer.epoch(Lessons({network.inputs[0].name: x}, np.zeros(8, np.int64)).in_order(8), lambda step: None)
    for number, values in enumerate((network.state(), trainer.state())):
        np.savez(tmp_path / f"{number}.npz", **values)
    kept, memory = (_stored(tmp_path / f"{number}.npz") for number in (0, 1))
    again = network.clone()
    again.restore({name: np.zeros_like(values) for name, values in kept.items()})
    again.restore(kept)
    again.trainer(course).restore(memory)
    np.testing.assert_array_equal(_answer(again, x), _answer(network, x))
