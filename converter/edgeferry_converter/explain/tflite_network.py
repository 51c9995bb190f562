"""A TFLite file as its layers; parts of it are cut out and run in the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.explain.network import Op, Program, Stored, upstream
from edgeferry_converter.quantize.tflite import make_names_unique
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.signature import pack
from edgeferry_runtime.errors import ArtifactError, EngineError
from edgeferry_runtime.tensors import Array, Quantization

Run = Callable[[Mapping[str, Array]], dict[str, Array]]

FLOAT32 = 0
INTEGERS: Mapping[int, str] = {2: "int32", 3: "uint8", 7: "int16", 9: "int8"}
"""NumPy dtypes by `TensorType` of the schema, of those that can be quantized."""


class TfliteNetwork:
    """A ``.tflite`` file; see `edgeferry_converter.explain.network.Network`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        require("ferry explain", "quantize", "ai_edge_litert.tools.flatbuffer_utils")
        with foreign(path, "it could not be read", error=ArtifactError):
            self._model = self._read()
        graph = self._model.subgraphs[0]
        self._names = [tensor.name.decode() for tensor in graph.tensors]
        self._index = {name: index for index, name in enumerate(self._names)}
        self.ops = tuple(self._op(op) for op in graph.operators)
        self.inputs: Mapping[str, str] = _inputs(path, self._model, self._names)
        self._made = {name: op for op in self.ops for name in op.outputs}

    def _read(self) -> Any:
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model_from_bytearray(self.path.read_bytes())
        make_names_unique(model)
        return model

    def _op(self, op: Any) -> Op:
        from ai_edge_litert.tools import flatbuffer_utils

        kind = flatbuffer_utils.opcode_to_name(self._model, op.opcodeIndex) or "CUSTOM"
        inputs, outputs = ([self._names[i] for i in side if i >= 0] for side in (op.inputs, op.outputs))
        return Op(kind, outputs[0] if outputs else kind, tuple(inputs), tuple(outputs))

    def _tensor(self, name: str) -> Any:
        return self._model.subgraphs[0].tensors[self._index[name]]

    def size(self, name: str) -> int:
        """Return the bytes that a float activation takes."""
        return 4 * int(np.prod(np.abs(self._tensor(name).shape), dtype=np.int64))

    def activations(self) -> tuple[str, ...]:
        """Return the tensors that hold real values and are computed, in order of execution."""
        made = (name for op in self.ops for name in op.outputs)
        return tuple(name for name in made if self._tensor(name).type == FLOAT32 or self.stored(name))

    def constant(self, name: str) -> Array | None:
        """Return the values of a weight as they are stored; None for what is computed, or is no float32."""
        tensor = self._tensor(name) if name in self._index else None
        data = self._model.buffers[tensor.buffer].data if tensor is not None else None
        if tensor is None or data is None or not len(data) or tensor.type != FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)

    def stored(self, name: str) -> Stored | None:
        """Tell how a tensor is stored; of one that is dequantized at a border, what it was before."""
        if name not in self._index:
            return None
        made = self._made.get(name)
        if made is not None and made.kind == "DEQUANTIZE":
            name = made.inputs[0]
        tensor = self._tensor(name)
        found = tensor.quantization
        if tensor.type not in INTEGERS or found is None or found.scale is None or not len(found.scale):
            return None
        scale, zeros = tuple(map(float, found.scale)), tuple(map(int, found.zeroPoint))
        axis = int(found.quantizedDimension) if len(scale) > 1 else None
        return Stored(Quantization(scale, zeros, axis), INTEGERS[tensor.type])

    def program(self, wanted: Sequence[str], given: Collection[str]) -> Program:
        """Make what computes the wanted tensors, from those given tensors that lie on the way."""
        model = self._read()
        graph = model.subgraphs[0]
        kept = upstream(self.ops, wanted, given)
        made = {name for index in kept for name in self.ops[index].outputs}
        graph.operators = [graph.operators[index] for index in kept]
        sources: dict[str, int] = {}
        for op in graph.operators:
            op.inputs = [self._source(graph, index, given, made, sources) for index in op.inputs]
        graph.inputs, graph.outputs = list(sources.values()), [self._index[name] for name in wanted]
        model.signatureDefs = []
        with foreign(self.path, "its engine refuses a part of it", error=EngineError):
            run = _runner(pack(model), sources, {name: self._index[name] for name in wanted})
        return Program(self.path, tuple(sources), run)

    def _source(
        self, graph: Any, index: int, given: Collection[str], made: Collection[str], sources: dict[str, int]
    ) -> int:
        """Return where an operator reads a tensor: a given one from an input of its own."""
        name = self._names[index] if index >= 0 else ""
        if name not in given:
            return index
        if name not in sources:
            sources[name] = index
            if name in made:
                graph.tensors.append(copy.copy(graph.tensors[index]))
                graph.tensors[-1].name = f"{name};given".encode()
                sources[name] = len(graph.tensors) - 1
        return sources[name]


def _inputs(path: Path, model: Any, names: Sequence[str]) -> dict[str, str]:
    """Return the tensor of each input, by the primary signature where there is one."""
    signatures = model.signatureDefs or []
    keys = [s.signatureKey.decode() for s in signatures]
    if not keys:
        return {names[i]: names[i] for i in model.subgraphs[0].inputs}
    primary = signatures[keys.index("serving_default") if "serving_default" in keys else 0]
    if primary.subgraphIndex:
        raise ArtifactError(path, "runs a subgraph that is not its first", "explain a model of one signature")
    return {entry.name.decode(): names[entry.tensorIndex] for entry in primary.inputs}


def _runner(content: bytes, sources: Mapping[str, int], targets: Mapping[str, int]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        details = {d["index"]: d for d in interpreter.get_input_details()}
        fitting = all(tuple(details[i]["shape"]) == values[name].shape for name, i in sources.items())
        if not fitting:
            for name, index in sources.items():
                interpreter.resize_tensor_input(index, values[name].shape)
            interpreter.allocate_tensors()
        interpreter.reset_all_variables()
        for name, index in sources.items():
            interpreter.set_tensor(index, _store(values[name], details[index]))
        interpreter.invoke()
        shown = {d["index"]: d for d in interpreter.get_output_details()}
        return {name: _real(interpreter.get_tensor(index), shown[index]) for name, index in targets.items()}

    return run


def _quantization(details: Mapping[str, Any]) -> Quantization | None:
    found = details["quantization_parameters"]
    if np.dtype(details["dtype"]).kind not in "iu" or not len(found["scales"]):
        return None
    axis = int(found["quantized_dimension"]) if len(found["scales"]) > 1 else None
    return Quantization(tuple(map(float, found["scales"])), tuple(map(int, found["zero_points"])), axis)


def _store(value: Array, details: Mapping[str, Any]) -> Array:
    quantization, dtype = _quantization(details), np.dtype(details["dtype"])
    if quantization is not None and value.dtype.kind == "f":
        return quantization.quantize(value, dtype.name)
    return value.astype(dtype)


def _real(value: Array, details: Mapping[str, Any]) -> Array:
    quantization = _quantization(details)
    return quantization.dequantize(value) if quantization else value
