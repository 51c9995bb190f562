"""The integers of a quantized TFLite file: what it really computes with, to be held against what was simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.explain.network import Stored, open_network
from edgeferry_converter.quantize.tflite import DEQUANTIZE, INT4, INT8, RESHAPE, WITH_WEIGHTS, make_names_unique
from edgeferry_converter.quantize.tflite_ranges import is_constant
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.errors import ArtifactError
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Integers:
    """The weights of one layer, as they are stored.

    Attributes:
        values: int8, of int4 weights too; in TFLite's order: the output channels first, of a depthwise kernel last.
        scale: float32, one for each output channel, or a single one.
        axis: The axis of the output channels.
    """

    values: Array
    scale: Array
    axis: int


def weights(path: Path) -> dict[str, Integers]:
    """Read the integer weights of the first subgraph, by the name of their operator's output.

    Args:
        path: A ``.tflite`` file whose weights have a scale per channel or per tensor.

    Raises:
        ArtifactError: If it cannot be read.
        MissingExtraError: If flatbuffers cannot be read here.
    """
    flatbuffers = require(path, "quantize", "ai_edge_litert.tools.flatbuffer_utils")
    with foreign(path, "it could not be read", error=ArtifactError):
        model = flatbuffers.read_model_from_bytearray(path.read_bytes())
        make_names_unique(model)
        return {name: _integers(model, tensor) for name, tensor in _stored(model)}


def activations(path: Path) -> dict[str, Stored]:
    """Read scale and zero point of each integer activation, by its name.

    Args:
        path: A ``.tflite`` or ``.onnx`` file.

    Raises:
        ArtifactError: If it cannot be read.
        MissingExtraError: If what reads the format is not installed.
    """
    network = open_network(path)
    found = {name: network.stored(name) for name in (*network.inputs.values(), *network.activations())}
    return {name: stored for name, stored in found.items() if stored is not None}


def _stored(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield each operator's output with its weights, also where they are dequantized before."""
    graph = model.subgraphs[0]
    origin: dict[int, int] = {}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code in (DEQUANTIZE, RESHAPE):
            origin[operator.outputs[0]] = origin.get(operator.inputs[0], operator.inputs[0])
        if code in WITH_WEIGHTS:
            for index in operator.inputs[:3]:
                tensor = graph.tensors[origin.get(index, index)]
                if index != -1 and tensor.type in (INT8, INT4) and is_constant(model, tensor):
                    yield graph.tensors[operator.outputs[0]].name.decode(), tensor


def _integers(model: Any, tensor: Any) -> Integers:
    stored = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int8)
    count = int(np.prod(tensor.shape))
    if tensor.type == INT4:
        stored = np.stack([stored << 4 >> 4, stored >> 4], axis=1).reshape(-1)[:count]
    found = tensor.quantization
    return Integers(stored.reshape(tensor.shape), np.array(found.scale, np.float32), int(found.quantizedDimension))
