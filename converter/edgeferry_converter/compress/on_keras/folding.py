"""Batch normalization becomes part of the layer before it, as it will be in the artifact.

At inference it multiplies each channel and adds to it (Ioffe and Szegedy 2015, "Batch Normalization", algorithm 2), and
so does a layer of weights: the weights of a channel take the factor (Jacob et al. 2018, section 3.2, equation 14).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeferry_converter.compress.on_keras.network import KINDS
from edgeferry_converter.compress.on_keras.values import fill
from edgeferry_converter.compress.on_keras.walking import Call, copy, nodes, rebuild
from edgeferry_runtime.tensors import Array

NORMALIZATION = "BatchNormalization"
LEFT = "what it gives is rounded, and what it multiplies and adds is not simulated"


def fold(model: Any) -> tuple[Any, dict[str, str]]:
    """Return a copy of a model with its batch normalization folded in float64, and why some of it could not be.

    Args:
        model: Without models inside; see `walking.flatten`. It is not changed.

    Returns:
        The model, and by name of a layer of normalization that is left why.
    """
    pairs, kept = _pairs(model)
    layers = {id(node.operation): node.operation for node in nodes(model) if hasattr(node.operation, "get_config")}
    copies = {key: _copied(layer, key in pairs) for key, layer in layers.items() if hasattr(layer, "get_weights")}
    gone = {id(norm) for norm in pairs.values()}
    folded = rebuild(model, _caller(copies, gone))
    for key, made in copies.items():
        if key in gone:
            continue
        fill(made, _folded(layers[key], pairs[key]) if key in pairs else layers[key].get_weights())
    return folded, kept


def _caller(copies: Mapping[int, Any], gone: set[int]) -> Call:
    def call(node: Any, operation: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return args[0] if id(operation) in gone else copies.get(id(operation), operation)(*args, **named)

    return call


class _Uses:
    """Who makes each tensor of a model, and how often what is used."""

    def __init__(self, model: Any) -> None:
        self.calls = list(nodes(model))
        self._makers = {id(tensor): node for node in self.calls for tensor in node.outputs}
        self._reads = Counter(id(tensor) for node in self.calls for tensor in node.input_tensors)
        self._layers = Counter(id(node.operation) for node in self.calls)
        self._outputs = {id(tensor) for tensor in model.outputs}

    def maker(self, node: Any) -> Any:
        """Return the layer that makes what a call reads; None where it is an input of the model."""
        found = self._makers.get(id(node.input_tensors[0]))
        return found.operation if found is not None else None

    def obstacle(self, node: Any) -> str:
        """Say why a call of normalization cannot become one with the call before it."""
        source, maker = node.input_tensors[0], self.maker(node)
        if self._reads[id(source)] > 1 or id(source) in self._outputs:
            return f"another layer reads what {maker.name!r} makes"
        if self._layers[id(node.operation)] > 1 or self._layers[id(maker)] > 1:
            return "it, or the layer before it, is used more than once"
        return "it is an output of the model" if id(node.outputs[0]) in self._outputs else ""


def _pairs(model: Any) -> tuple[dict[int, Any], dict[str, str]]:
    """Return the normalization that can be folded by the id of the layer that takes it, and why others cannot."""
    uses = _Uses(model)
    pairs: dict[int, Any] = {}
    kept: dict[str, str] = {}
    for node in uses.calls:
        norm, maker = node.operation, uses.maker(node)
        if type(norm).__name__ != NORMALIZATION:
            continue
        reason = _obstacle(norm, maker, len(node.outputs[0].shape)) or uses.obstacle(node)
        if reason:
            kept[norm.name] = f"its normalization cannot be folded ({reason}): {LEFT}"
        else:
            pairs[id(maker)] = norm
    return pairs, kept


def _obstacle(norm: Any, layer: Any, dimensions: int) -> str:
    """Say why a layer does not take the normalization behind it; an empty text where it does."""
    if layer is None or type(layer).__name__ not in KINDS or type(layer).__name__ == "EinsumDense":
        return "no layer of weights is before it"
    if getattr(layer.activation, "__name__", "linear") != "linear":
        return f"the activation of {layer.name!r} is before it"
    if norm.axis not in (-1, dimensions - 1):
        return f"it is along axis {norm.axis}"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return f"{layer.name!r} has its channels first"
    return ""


def _copied(layer: Any, folds: bool) -> Any:
    """Return a copy without values; one that takes normalization has a bias, and is free of what bound its kernel.

    A constraint or a penalty was meant for the kernel before it took the factors, which can be of any size.
    """
    made = copy(layer, layer.name)
    if folds:
        made.use_bias = True
        for key in vars(made):
            if key.endswith(("_constraint", "_regularizer")):
                setattr(made, key, None)
    return made


def _folded(layer: Any, norm: Any) -> list[Array]:
    """Return the kernel and bias of a layer that does what both did, float32, computed in float64."""
    kernel = np.asarray(layer.kernel.numpy(), np.float64)
    bias = np.asarray(layer.bias.numpy(), np.float64) if layer.bias is not None else 0.0
    mean, variance = (np.asarray(v.numpy(), np.float64) for v in (norm.moving_mean, norm.moving_variance))
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        factor = factor * norm.gamma.numpy()
    offset = norm.beta.numpy() if norm.beta is not None else 0.0
    kind = KINDS[type(layer).__name__]
    if kind == "depthwise":
        shaped = factor.reshape(kernel.shape[-2:])
    elif kind == "transposed":
        shaped = factor[:, np.newaxis]
    else:
        shaped = factor
    return [(kernel * shaped).astype(np.float32), ((bias - mean) * factor + offset).astype(np.float32)]
