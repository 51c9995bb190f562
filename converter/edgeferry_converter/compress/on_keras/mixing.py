"""Sixteen bits while a Keras model trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.recipe import Train

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

FULL, MIXED = "float32", "mixed_bfloat16"
"""bfloat16 has the range of float32, so that no loss needs to be scaled; variables stay float32."""


def wanted(train: Train, network: object) -> bool:
    """Tell whether a network is to be trained in 16 bits: not one that simulates an artifact, whose rounding counts."""
    import tensorflow as tf

    if hasattr(network, "settled") or train.mixed_precision == "never":
        return False
    return train.mixed_precision == "always" or bool(tf.config.list_physical_devices("GPU"))


@contextlib.contextmanager
def mixed(network: KerasNetwork) -> Iterator[None]:
    """Let every float32 layer compute in bfloat16 inside this block, but for those that make the model's outputs."""
    ends = {id(tensor._keras_history.operation) for tensor in network.model.outputs}
    changed = [layer for layer in _all(network.model) if layer.dtype_policy.name == FULL and id(layer) not in ends]
    for layer in changed:
        layer.dtype_policy = MIXED
    try:
        yield
    finally:
        for layer in changed:
            layer.dtype_policy = FULL


def _all(model: Any) -> list[Any]:
    """Return every layer, and those inside of it."""
    return list(model._flatten_layers(include_self=False, recursive=True))
