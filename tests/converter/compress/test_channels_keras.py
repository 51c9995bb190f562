"""Channels of Keras models: what goes changes nothing that it did not make, and what comes out is a plain model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.converter.compress.structured_models import MODELS

from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.structure.graph import MODEL_OUTPUT
from edgeferry_converter.compress.structure.units import Units, cut
from edgeferry_converter.quiet import quiet
from edgeferry_runtime.errors import ConversionError

pytestmark = pytest.mark.slow


def opened(model: Any) -> tuple[KerasNetwork, Units, dict[str, np.ndarray]]:
    """Return a network whose biases and statistics are not those of a fresh model."""
    network, rng = KerasNetwork("m", model), np.random.default_rng(0)
    state = {
        name: values + rng.normal(0, 0.1, values.shape).astype(values.dtype) if "variance" not in name else values
        for name, values in network.state().items()
    }
    return network, Units(network.channels(), {name: values.size for name, values in state.items()}), state


def feeds(network: KerasNetwork, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {spec.name: [3, *spec.shape[1:]] for spec in network.inputs}
    whole = {spec.name for spec in network.inputs if spec.dtype.startswith("int")}
    return {
        name: rng.integers(0, 20, shape).astype(np.int32) if name in whole else rng.random(shape, np.float32)
        for name, shape in shapes.items()
    }


def some(units: Units, rng: np.random.Generator) -> frozenset[int]:
    """Choose from every pool some units, never all."""
    free = [pool.units for pool in units.pools if not pool.frozen]
    return frozenset(int(u) for pool in free for u in rng.permutation(pool)[: rng.integers(1, len(pool))])


def silenced(units: Units, state: Mapping[str, np.ndarray], removed: frozenset[int]) -> dict[str, np.ndarray]:
    """Return the values with zeros in what makes the removed units; what takes them keeps its weights."""
    found = {name: values.copy() for name, values in state.items()}
    for use in units.graph.uses:
        if use.role != "input":
            gone = np.isin(units.of(use.ids), list(removed))
            found[use.parameter][(slice(None),) * use.axis + (gone,)] = 0
    return found


@pytest.mark.parametrize("name", MODELS)
def test_without_silent_channels_a_model_computes_the_same(name: str) -> None:
    with quiet():
        network, units, state = opened(MODELS[name]())
    for seed in range(2):
        rng = np.random.default_rng(seed)
        removed = some(units, rng)
        values = silenced(units, state, removed)
        network.restore(values)
        fed, smaller = feeds(network, rng), network.resized(cut(units, values, removed))
        whole, part = network.predict(fed), smaller.predict(fed)
        assert smaller.parameters() < network.parameters()
        assert max(float(np.abs(answer).max()) for answer in whole.values()) > 1e-3
        for output, answer in whole.items():
            np.testing.assert_allclose(part[output], answer, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_names_of_layers_inputs_and_outputs_stay(name: str, tmp_path: Path) -> None:
    import keras

    with quiet():
        network, units, state = opened(MODELS[name]())
        smaller = network.resized(cut(units, state, some(units, np.random.default_rng(0))))
        again = KerasNetwork("m", keras.models.load_model(smaller.save(tmp_path)))
    assert (smaller.inputs, smaller.outputs, smaller.layers()) == (network.inputs, network.outputs, network.layers())
    assert set(smaller.state()) == set(network.state())
    fed = feeds(network, np.random.default_rng(0))
    for output, answer in smaller.predict(fed).items():
        np.testing.assert_allclose(again.predict(fed)[output], answer, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("residual", {"two-b", "two-shortcut", "three-b"}),
        ("inverted", {"stem", "project"}),
        ("squeezing", {"stem", "excite"}),
        ("nested", {"stem", "inner/inner-b"}),
    ],
)
def test_what_is_added_or_multiplied_is_one(name: str, together: set[str]) -> None:
    _, units, _ = opened(MODELS[name]())
    assert together in [set(pool.layers) for pool in units.pools]


def test_macs_are_those_of_the_layers() -> None:
    _, units, _ = opened(MODELS["sequential"]())
    assert units.macs().before == 36 * 9 * 16 + 4 * 4 * 16 * 16 + 64 * 16 + 16 * 10


def test_what_computes_over_channels_keeps_them() -> None:
    _, units, _ = opened(MODELS["transformer"]())
    reasons = {name: pool.frozen for pool in units.pools for name in pool.layers}
    assert "computes over all of its channels (LayerNormalization)" in reasons["table"]
    assert (reasons["attention0"], reasons["wide0"], reasons["last"]) == ("", "", MODEL_OUTPUT)


def _between(*layers: Any) -> Units:
    """Return the units of a convolution ``before``, some layers, and a convolution ``after``."""
    import keras

    image = keras.Input((4, 4, 2), name="image")
    x = keras.layers.Conv2D(8, 1, name="before")(image)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2D(4, 1, name="after")(x)
    return opened(keras.Model(image, keras.layers.GlobalAveragePooling2D()(x)))[1]


def test_unknown_layers_keep_what_is_around_them_and_are_named() -> None:
    import keras

    units = _between(keras.layers.TimeDistributed(keras.layers.Dense(6), name="each"))
    assert units.graph.kept == {"each": "its kind, TimeDistributed, is not known"}
    frozen = {name: pool.frozen for pool in units.pools for name in pool.layers}
    assert frozen["before"] == "'each' takes it: its kind, TimeDistributed, is not known"


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("Activation", {"activation": "softmax"}, "mixes channels"),
        ("Softmax", {}, "computes over all"),
        ("Rescaling", {"scale": [1.0] * 8}, "has constants"),
        ("Permute", {"dims": (3, 1, 2)}, "moves the axis"),
        ("BatchNormalization", {"axis": 1}, "not the last axis"),
        ("Reshape", {"target_shape": (4, -1, 8)}, ""),
    ],
)
def test_a_layer_may_freeze_what_it_takes(kind: str, options: dict[str, Any], reason: str) -> None:
    import keras

    units = _between(getattr(keras.layers, kind)(**options))
    frozen = {name: pool.frozen for pool in units.pools for name in pool.layers}["before"]
    assert reason in frozen if reason else not frozen


def test_dtype_policies_and_what_is_trainable_stay() -> None:
    import keras

    model = MODELS["residual"]()
    model.get_layer("one-a").trainable = False
    model.get_layer("last").dtype_policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    network, units, state = opened(model)
    smaller = network.resized(cut(units, state, some(units, np.random.default_rng(0)))).model
    assert [layer.name for layer in smaller.layers if not layer.trainable] == ["one-a"]
    assert smaller.get_layer("last").dtype_policy.name == "mixed_bfloat16"


def test_sizes_that_do_not_fit_are_an_error() -> None:
    network, _, state = opened(MODELS["sequential"]())
    with pytest.raises(ConversionError, match="does not fit the model"):
        network.resized({**state, "first/kernel": state["first/kernel"][..., :3]})
