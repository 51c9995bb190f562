"""Builds a Keras model again with layers of other sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.on_keras.rebuilding import Builder
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

Config = dict[str, Any]
Shape = Callable[[Any], tuple[int, ...]]
"""Tells what shape a variable of the model as it was shall have."""


def resize(network: KerasNetwork, state: Mapping[str, Array]) -> KerasNetwork:
    """Return a network of the same layers, inputs and outputs that stores these values.

    Names, dtype policies and what is trainable stay as they are.

    Args:
        network: What it is built after.
        state: Every stored value; their shapes say how large each layer is.

    Raises:
        ConversionError: If the layers do not fit together.
    """
    names = network.names()

    def again(layer: Any) -> Any:
        config, change = layer.get_config(), SIZES.get(type(layer).__name__)
        if change is not None:
            change(layer, config, lambda variable: state[names[id(variable)]].shape)
        return type(layer).from_config(config)

    with foreign(network.name, "a model of these sizes could not be built"):
        smaller = network.with_model(Builder(again).model(network.model))
        _settle(smaller, network)
        smaller.restore(state)
    return smaller


def _last(key: str, variable: str = "kernel", axis: int = -1) -> Callable[[Any, Config, Shape], None]:
    """Return a rule: a key of the configuration is the size of a variable's axis."""

    def change(layer: Any, config: Config, shape: Shape) -> None:
        config[key] = shape(getattr(layer, variable))[axis]

    return change


def _einsum(layer: Any, config: Config, shape: Shape) -> None:
    sizes = config["output_shape"]
    sizes = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    config["output_shape"] = (*sizes[:-1], shape(layer.kernel)[-1])


def _attention(layer: Any, config: Config, shape: Shape) -> None:
    """Say how many heads there are, and how wide the output is where that is not the width of the query."""
    _, config["num_heads"], _ = shape(layer._query_dense.kernel)
    taken, made = shape(layer._query_dense.kernel)[0], shape(layer._output_dense.kernel)[-1]
    if config["output_shape"] is not None or taken != made:
        config["output_shape"] = (made,)


def _target(layer: Any, config: Config, shape: Shape) -> None:
    """Leave the last size open; `_settle` writes it down."""
    sizes = tuple(layer.output.shape[1:])
    if None not in sizes:
        config["target_shape"] = (*sizes[:-1], -1)


def _settle(smaller: KerasNetwork, network: KerasNetwork) -> None:
    """Write down the sizes that `_target` left open, where the model as it was said them."""
    before = dict(network.parts())
    for path, layer in smaller.parts():
        if type(layer).__name__ == "Reshape" and -1 not in before[path].target_shape:
            layer.target_shape = tuple(layer.output.shape[1:])


SIZES: Mapping[str, Callable[[Any, Config, Shape], None]] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _last("filters")),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _last("filters", axis=-2)),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _last("filters", "pointwise_kernel")),
    "Dense": _last("units"),
    "EinsumDense": _einsum,
    "Embedding": _last("output_dim", "embeddings"),
    "MultiHeadAttention": _attention,
    "Reshape": _target,
}
"""What in a layer's configuration follows from the shapes of its variables, by its class."""
