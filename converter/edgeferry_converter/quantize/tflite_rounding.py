"""Rounding by GPTQ of the weights of a TFLite file, after the quantizer has chosen precisions and scales.

The inputs of each layer are seen in the pass over the float model that calibrates activations too. Each bias is
corrected by the mean error that the rounded weights leave. What is kept while samples pass is a matrix per layer, whose
side is the number of weights of an output channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgeferry_converter.quantize.onnx_weights import pack_int4
from edgeferry_converter.quantize.rounding import GPTQ, NEAREST, Moments, round_weights
from edgeferry_runtime.tensors import Array

CONV_2D, DEPTHWISE_CONV_2D, DEQUANTIZE, FULLY_CONNECTED = 3, 4, 6, 9
SAME = 0
FLOAT32, INT32, INT64, INT8, INT4 = 0, 2, 4, 9, 17
LARGEST = {INT8: 127, INT4: 7}
STORED = {FLOAT32: np.float32, INT32: np.int32, INT64: np.int64}
LARGEST_BIAS = {INT32: 2**31 - 1, INT64: 2**62}

FEWEST, PER_WEIGHT = 2048, 8
"""Inputs of a layer that are enough: so many, or so many for each weight of a channel; a sample gives one at least."""
DEEPEST = 4608
"""Channels of more weights are rounded to the nearest: 3 x 3 x 512 take a matrix of 170 MB."""


@dataclass(frozen=True)
class Layer:
    """A float operator whose weights no other operator reads.

    Attributes:
        kind: Its number in the schema.
        source: The name of its input.
        weight: The name of its weights.
        values: The weights, as they are stored.
        bias: Its bias of [channels], where it has a constant one.
        options: As the schema has them.
        groups: How many parts of the input's channels have weights of their own.
    """

    kind: int
    source: str
    weight: str
    values: Array
    bias: Array | None
    options: Any
    groups: int

    @cached_property
    def rows(self) -> Array:
        """The weights, of [groups, channels of a group, depth]."""
        if self.kind == FULLY_CONNECTED:
            return self.values[np.newaxis]
        channels = self.values[0].transpose(2, 0, 1) if self.kind == DEPTHWISE_CONV_2D else self._depth_first
        return channels.reshape(self.groups, len(channels) // self.groups, -1)

    @property
    def _depth_first(self) -> Array:
        return self.values.transpose(0, 3, 1, 2)

    def stored(self, rows: Array) -> Array:
        """Bring weights of the form of `rows` into that of `values`."""
        if self.kind == FULLY_CONNECTED:
            return rows.reshape(self.values.shape)
        if self.kind == DEPTHWISE_CONV_2D:
            height, width = self.values.shape[1:3]
            return rows.reshape(-1, height, width).transpose(1, 2, 0)[np.newaxis]
        return rows.reshape(self._depth_first.shape).transpose(0, 2, 3, 1)

    def inputs(self, values: Array, most: int, offset: int) -> Array:
        """Return what the weights are multiplied with, float32 of [rows, groups, depth].

        Args:
            values: The input.
            most: How many rows there are at most, as far apart as can be.
            offset: Which one is the first.
        """
        if self.kind == FULLY_CONNECTED:
            flat = values.reshape(-1, 1, self.values.shape[1])
            return flat[_some(len(flat), most, offset)]
        patches = _patches(values, self.values.shape[1:3], self.options)
        places = np.unravel_index(_some(int(np.prod(patches.shape[:3])), most, offset), patches.shape[:3])
        found: Array = patches[places]
        return found.reshape(len(found), self.groups, -1)


def _some(count: int, most: int, offset: int) -> Array:
    step = max(-(-count // most), 1)
    return np.arange(offset % step, count, step)


def _patches(values: Array, kernel: tuple[int, ...], options: Any) -> Array:
    """View the patches of an image that a convolution reads, [batch, height, width, channels, *kernel]."""
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if options.padding == SAME:
        sizes = zip(values.shape[1:3], strides, extents, strict=True)
        missing = [max((-(-size // stride) - 1) * stride + extent - size, 0) for size, stride, extent in sizes]
        values = np.pad(values, [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(values, extents, (1, 2))
    return windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def layers(model: Any, subgraph: int) -> Iterator[Layer]:
    """Yield the layers of a float model whose weights can be rounded by what they are fed."""
    uses = _uses(model)
    graph = model.subgraphs[subgraph]
    for operator in graph.operators:
        kind = _kind(model, operator)
        if kind not in (CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED):
            continue
        source, weight, bias = _operands(graph, operator)
        values = _constant(model, weight)
        if values is None or uses[weight.buffer] > 1 or source.type != FLOAT32:
            continue
        groups = _groups(kind, source, values)
        added = None if bias is None else _constant(model, bias)
        layer = Layer(kind, source.name.decode(), weight.name.decode(), values, added, operator.builtinOptions, groups)
        if layer.rows.shape[2] <= DEEPEST:
            yield layer


def _kind(model: Any, operator: Any) -> int:
    return int(model.operatorCodes[operator.opcodeIndex].builtinCode)


def _operands(graph: Any, operator: Any, behind: Mapping[int, int] | None = None) -> tuple[Any, Any, Any]:
    """Return the tensors of input, weights and bias, which is None where there is none.

    Args:
        graph: The operator's.
        operator: A convolution or a fully connected layer.
        behind: By index the tensors that are read instead.
    """
    tensors = [graph.tensors[(behind or {}).get(i, i)] if i != -1 else None for i in operator.inputs]
    return tensors[0], tensors[1], tensors[2] if len(tensors) > 2 else None


def _uses(model: Any) -> Counter[int]:
    """Count how many operators read each buffer."""
    return Counter(g.tensors[i].buffer for g in model.subgraphs for o in g.operators for i in o.inputs if i != -1)


def _constant(model: Any, tensor: Any) -> Array | None:
    """Return the values of a float constant."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != FLOAT32 or data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def _groups(kind: int, source: Any, values: Array) -> int:
    if kind == FULLY_CONNECTED:
        return 1
    channels = int(source.shape[-1])
    return channels if kind == DEPTHWISE_CONV_2D else channels // values.shape[3]


class Inputs:
    """What the layers of one subgraph are fed, over a number of samples."""

    def __init__(self, model: Any, subgraph: int, samples: int) -> None:
        self._samples = max(samples, 1)
        self.moments: dict[str, Moments] = {}
        self._layers: dict[str, list[Layer]] = {}
        for layer in layers(model, subgraph):
            self._layers.setdefault(layer.source, []).append(layer)

    def observe(self, name: str, values: Array) -> None:
        """Take the values of one tensor in one sample."""
        for layer in self._layers.get(name, ()):
            groups, _, depth = layer.rows.shape
            if layer.weight not in self.moments:
                self.moments[layer.weight] = Moments.empty(groups, depth)
            moments = self.moments[layer.weight]
            most = max(FEWEST, PER_WEIGHT * depth) // self._samples
            moments.add(layer.inputs(values, max(most, 1), moments.samples))


def round_again(original: Any, quantized: Any, moments: Mapping[str, Moments]) -> dict[str, int]:
    """Round the integer weights of a quantized model by what its layers are fed, in place.

    Args:
        original: The float model as the object API has it.
        quantized: What the quantizer made of it; tensors of weights have the same names in both.
        moments: Of the inputs of each layer, by the name of its weights.

    Returns:
        How many layers with integer weights were rounded by ``gptq``, and how many are left at ``nearest``.
    """
    known = {layer.weight: layer for i in range(len(original.subgraphs)) for layer in layers(original, i)}
    uses, done = _uses(quantized), Counter[str]()
    for graph in quantized.subgraphs:
        behind = {o.outputs[0]: o.inputs[0] for o in graph.operators if _kind(quantized, o) == DEQUANTIZE}
        for operator in graph.operators:
            if _kind(quantized, operator) not in (CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED):
                continue
            _, weight, bias = _operands(graph, operator, behind)
            if weight.type not in LARGEST or not _length(quantized, weight):
                continue
            layer, seen = known.get(weight.name.decode()), moments.get(weight.name.decode())
            alone = uses[weight.buffer] == 1 and weight.quantization.scale is not None
            if layer is None or seen is None or not alone or not seen.finite:
                done[NEAREST] += 1
                continue
            done[GPTQ] += 1
            error = _store(quantized, layer, weight, seen)
            if layer.bias is not None:
                own = bias if uses[bias.buffer] == 1 else _own_bias(quantized, graph, operator)
                _correct(quantized, own, layer.bias + error)
    return dict(sorted(done.items()))


def _length(model: Any, tensor: Any) -> int:
    data = model.buffers[tensor.buffer].data
    return 0 if data is None else len(data)


def _store(model: Any, layer: Layer, weight: Any, seen: Moments) -> Array:
    """Round one layer's weights; return the mean error that they leave in each channel."""
    rows = layer.rows.astype(np.float64)
    scale = np.broadcast_to(weight.quantization.scale, rows.shape[0] * rows.shape[1]).reshape(*rows.shape[:2], 1)
    rounded = round_weights(rows / scale, seen.hessian(centered=layer.bias is not None), LARGEST[weight.type])
    stored = np.ascontiguousarray(layer.stored(rounded).astype(np.int8))
    content = pack_int4(stored) if weight.type == INT4 else stored.tobytes()
    model.buffers[weight.buffer].data = np.frombuffer(content, np.uint8)
    error: Array = np.einsum("gck,gk->gc", rows - rounded * scale, seen.mean).ravel()
    return error


def _own_bias(model: Any, graph: Any, operator: Any) -> Any:
    """Give an operator a copy of its bias, which others read too: zeros are often stored once."""
    bias, buffer = copy(graph.tensors[operator.inputs[2]]), copy(model.buffers[0])
    model.buffers.append(buffer)
    bias.buffer = len(model.buffers) - 1
    graph.tensors.append(bias)
    operator.inputs = [*operator.inputs[:2], len(graph.tensors) - 1]
    return bias


def _correct(model: Any, bias: Any, values: Array) -> None:
    """Store a layer's bias anew, in steps of its scale where it has one; a dead channel's are too small for it."""
    if bias.type != FLOAT32:
        limit = LARGEST_BIAS[bias.type]
        values = np.clip(np.rint(values / bias.quantization.scale), -limit, limit)
    content = values.astype(STORED[bias.type]).tobytes()
    model.buffers[bias.buffer].data = np.frombuffer(content, np.uint8)
