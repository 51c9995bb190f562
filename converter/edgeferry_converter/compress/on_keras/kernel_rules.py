"""How channels go through layers that have kernels; see `channel_rules`."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeferry_converter.compress.on_keras.channels import Call, Tracer, positions, size, width
from edgeferry_converter.compress.structure.graph import HEAD
from edgeferry_runtime.tensors import Array

CHANNELS_FIRST = "its channels are not the last axis"
OVER_CHANNELS = ("softmax", "log_softmax", "glu", "sparsemax", "sparse_plus")
"""Activations that mix channels."""


def convolution(tracer: Tracer, call: Call) -> Array | str:
    """Every filter makes a channel; of a grouped one, the same channel of every group goes together."""
    layer, kernel = call.layer, call.layer.kernel
    if layer.data_format != "channels_last":
        return CHANNELS_FIRST
    outputs = tracer.graph.new(layer.filters)
    inputs = _grouped(tracer, call.ids[0], layer.groups)
    _grouped(tracer, outputs, layer.groups)
    tracer.use(kernel, kernel.ndim - 2, inputs, "input")
    tracer.cost(call.path, size(kernel) * positions(call.output), inputs, outputs)
    return _made(tracer, call, outputs, kernel.ndim - 1)


def _grouped(tracer: Tracer, ids: Array, groups: int) -> Array:
    """Unite what has the same place in each group, and return the first group."""
    rows = ids.reshape(groups, -1)
    for row in rows[1:]:
        tracer.graph.unite(rows[0], row)
    return np.asarray(rows[0])


def transposed(tracer: Tracer, call: Call) -> Array | str:
    """The kernel has the channels that it makes before those that it takes."""
    layer, kernel = call.layer, call.layer.kernel
    if layer.data_format != "channels_last":
        return CHANNELS_FIRST
    outputs = tracer.graph.new(layer.filters)
    tracer.use(kernel, kernel.ndim - 1, call.ids[0], "input")
    tracer.cost(call.path, size(kernel) * positions(call.tensors[0]), call.ids[0], outputs)
    return _made(tracer, call, outputs, kernel.ndim - 2)


def depthwise(tracer: Tracer, call: Call) -> Array | str:
    """A channel is taken and made, as often as the multiplier says."""
    layer, kernel = call.layer, call.layer.kernel
    if layer.data_format != "channels_last":
        return CHANNELS_FIRST
    outputs = np.repeat(call.ids[0], layer.depth_multiplier)
    tracer.use(kernel, kernel.ndim - 2, call.ids[0], "output")
    tracer.cost(call.path, size(kernel) * positions(call.output), None, outputs)
    return _finished(tracer, call, outputs)


def separable(tracer: Tracer, call: Call) -> Array | str:
    """A depthwise kernel, and a pointwise one."""
    layer, kernel, pointwise = call.layer, call.layer.depthwise_kernel, call.layer.pointwise_kernel
    if layer.data_format != "channels_last":
        return CHANNELS_FIRST
    between, outputs = np.repeat(call.ids[0], layer.depth_multiplier), tracer.graph.new(layer.filters)
    tracer.use(kernel, len(kernel.shape) - 2, call.ids[0], "output")
    tracer.use(pointwise, len(pointwise.shape) - 2, between, "input")
    tracer.use(pointwise, len(pointwise.shape) - 1, outputs, "output")
    tracer.cost(call.path, size(kernel) * positions(call.output), None, between)
    tracer.cost(call.path, size(pointwise) * positions(call.output), between, outputs)
    tracer.made(call.path, outputs)
    return _finished(tracer, call, outputs)


def dense(tracer: Tracer, call: Call) -> Array | str:
    """Every unit is a channel."""
    kernel, outputs = call.layer.kernel, tracer.graph.new(call.layer.units)
    tracer.use(kernel, 0, call.ids[0], "input")
    tracer.cost(call.path, size(kernel) * positions(call.output), call.ids[0], outputs)
    return _made(tracer, call, outputs, 1)


def einsum_dense(tracer: Tracer, call: Call) -> Array | str:
    """A dense layer, where its equation is one: ``...x,xy->...y``."""
    terms, _, output = call.layer.equation.partition("->")
    taken, _, kernel = terms.partition(",")
    bias = call.layer.bias_axes in (None, output[-1:])
    if len(kernel) != 2 or kernel != taken[-1] + output[-1] or taken[:-1] != output[:-1] or not bias:
        return f"its equation, {call.layer.equation}, is not that of a dense layer"
    outputs = tracer.graph.new(width(call.output))
    tracer.use(call.layer.kernel, 0, call.ids[0], "input")
    tracer.cost(call.path, size(call.layer.kernel) * positions(call.output), call.ids[0], outputs)
    return _made(tracer, call, outputs, 1)


def embedding(tracer: Tracer, call: Call) -> Array | str:
    """The width of a table."""
    outputs = tracer.graph.new(call.layer.output_dim)
    tracer.use(call.layer.embeddings, 1, outputs, "output")
    tracer.made(call.path, outputs)
    return outputs


def _made(tracer: Tracer, call: Call, outputs: Array, axis: int) -> Array:
    tracer.use(call.layer.kernel, axis, outputs, "output")
    tracer.made(call.path, outputs)
    return _finished(tracer, call, outputs)


def _finished(tracer: Tracer, call: Call, outputs: Array) -> Array:
    """Add the bias, and look at the activation."""
    if getattr(call.layer, "bias", None) is not None:
        tracer.use(call.layer.bias, 0, outputs, "other")
    return activated(tracer, call, outputs)


def activated(tracer: Tracer, call: Call, ids: Array) -> Array:
    """Look at a layer's activation, and keep channels that it mixes."""
    name = getattr(getattr(call.layer, "activation", None), "__name__", "")
    if name in OVER_CHANNELS:
        tracer.graph.freeze(ids, f"{call.path!r} ends in {name}, which mixes channels")
    return ids


def attention(tracer: Tracer, call: Call) -> Array | str:
    """Every head is a unit; what comes out are channels of their own."""
    layer = call.layer
    if getattr(layer, "_use_gate", False):
        return "its heads have gates"
    named = {**dict(zip(("query", "value", "key"), call.args, strict=False)), **call.kwargs}
    known = {id(tensor): ids for tensor, ids in zip(call.tensors, call.ids, strict=True)}
    named["key"] = named["value"] if named.get("key") is None else named["key"]
    taken = {part: named.pop(part) for part in ("query", "key", "value")}
    for other in named.values():
        tracer.graph.freeze(known.get(id(other), ()), f"{call.path!r} takes it as a mask")
    heads = tracer.graph.new(layer._num_heads)
    tracer.made(call.path, heads)
    tracer.graph.kinds[call.path] = HEAD
    for part, tensor in taken.items():
        _projected(tracer, call, getattr(layer, f"_{part}_dense"), (tensor, known[id(tensor)]), heads)
    steps = positions(taken["query"]) * positions(taken["key"])
    tracer.cost(call.path, steps * layer._num_heads * (layer._key_dim + layer._value_dim), None, heads)
    return _gathered(tracer, call, heads)


def _projected(tracer: Tracer, call: Call, part: Any, taken: tuple[Any, Array], heads: Array) -> None:
    """Follow a projection into heads, whose kernel is of [channels, heads, width]."""
    tensor, ids = taken
    tracer.use(part.kernel, 0, ids, "input")
    tracer.use(part.kernel, 1, heads, "output")
    if part.bias is not None:
        tracer.use(part.bias, 0, heads, "other")
    tracer.cost(call.path, size(part.kernel) * positions(tensor), ids, heads)


def _gathered(tracer: Tracer, call: Call, heads: Array) -> Array | str:
    """Follow the projection out of heads, whose kernel is of [heads, width, channels]."""
    part = call.layer._output_dense
    outputs = tracer.graph.new(width(call.output))
    tracer.use(part.kernel, 0, heads, "input")
    tracer.use(part.kernel, 2, outputs, "output")
    if part.bias is not None:
        tracer.use(part.bias, 0, outputs, "other")
    tracer.cost(call.path, size(part.kernel) * positions(call.output), heads, outputs)
    tracer.made(f"{call.path}/attention_output", outputs)
    return outputs
