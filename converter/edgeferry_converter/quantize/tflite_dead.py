"""Channels without weights, such as pruning leaves: their biases, after the quantizer.

It gives such a channel the smallest scale that it knows, some 1e-11. The bias has that scale times the input's, and 32
bits hold no more than some 1e-4 of it: a larger one is cut off, or changes its sign. Zeros are zeros by any scale, so
the channel gets that of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeferry_runtime.tensors import Array

FLOAT32, INT32, INT8, INT4 = 0, 2, 9, 17
OPERANDS: Mapping[int, tuple[int, int, int]] = {3: (0, 1, 2), 4: (0, 1, 2), 9: (0, 1, 2), 67: (2, 1, 3)}
"""Where CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and TRANSPOSE_CONV have their input, weights and bias."""
DEAD = 1e-9
"""The largest weight of a channel that the quantizer takes for empty."""
ALONE = 1.0
"""The scale of a layer whose channels are all empty."""


def revive_biases(original: Any, quantized: Any) -> int:
    """Give channels without weights a scale that their bias fits, in place; weights that two operators read stay.

    Args:
        original: The float model as the object API has it.
        quantized: What the quantizer made of it; tensors have the same names in both.

    Returns:
        How many channels had lost their bias.
    """
    biases = {t.name: _floats(original, t) for graph in original.subgraphs for t in graph.tensors if t.type == FLOAT32}
    uses = Counter(g.tensors[i].buffer for g in quantized.subgraphs for o in g.operators for i in o.inputs if i != -1)
    revived = 0
    for graph in quantized.subgraphs:
        for operator in graph.operators:
            places = OPERANDS.get(quantized.operatorCodes[operator.opcodeIndex].builtinCode)
            if places is None or len(operator.inputs) <= places[2] or operator.inputs[places[2]] == -1:
                continue
            source, weight, bias = (graph.tensors[operator.inputs[place]] for place in places)
            known, alone = biases.get(bias.name), uses[weight.buffer] == uses[bias.buffer] == 1
            if alone and bias.type == INT32 and weight.type in (INT8, INT4) and known is not None:
                revived += _revive(quantized, (source, weight, bias), known)
    return revived


def _revive(model: Any, tensors: tuple[Any, Any, Any], values: Array) -> int:
    source, weight, bias = tensors
    scales = np.array(weight.quantization.scale, np.float32)
    dead = scales <= np.float32(DEAD) / np.float32(7 if weight.type == INT4 else 127)
    if not dead.any() or scales.size != values.size:
        return 0
    scales[dead] = ALONE if dead.all() else scales[~dead].max()
    weight.quantization.scale = scales
    bias.quantization.scale = (np.float32(source.quantization.scale[0]) * scales).astype(np.float32)
    stored = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32).copy()
    limit = 2**31 - 1
    stored[dead] = np.clip(np.rint(values[dead] / bias.quantization.scale[dead]), -limit, limit).astype(np.int32)
    model.buffers[bias.buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
    return int(np.count_nonzero(values[dead]))


def _floats(model: Any, tensor: Any) -> Array | None:
    data = model.buffers[tensor.buffer].data
    return None if data is None or not len(data) else np.frombuffer(bytes(data), np.float32)
