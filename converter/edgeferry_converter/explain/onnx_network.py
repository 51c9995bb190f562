"""An ONNX file as its layers; parts of it are cut out and run in the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.explain.network import Op, Program, Stored, upstream
from edgeferry_converter.quantize.onnx import QUANTIZED_OPS
from edgeferry_converter.quantize.onnx_prepare import graphs, prepare
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.artifact_files import artifact_size
from edgeferry_runtime.engines.onnxruntime import FLOAT_MATRICES, import_engine
from edgeferry_runtime.errors import ArtifactError, EngineError
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tensors import Array, Quantization

WITHOUT = ["QDQPropagationTransformer"]
"""ONNX Runtime's optimizers that are left out: this one makes a broken graph of a part that ends in a MaxPool."""

GUESS = 2**20
"""Bytes of a tensor whose shape is open."""


class OnnxNetwork:
    """An ``.onnx`` file; see `edgeferry_converter.explain.network.Network`.

    A float file is prepared as for quantization, so that its layers are those that the quantizer saw.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        onnx = require("ferry explain", "quantize", "onnx")
        _refuse_large(path)
        import_engine("ferry explain")
        with foreign(path, "it could not be read", error=ArtifactError):
            model = onnx.load(str(path))
            if not any(node.op_type in QUANTIZED_OPS for graph in graphs(model.graph) for node in graph.node):
                model = _prepared(model)
            self._model = onnx.shape_inference.infer_shapes(model)
        graph = self._model.graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
        self.ops = tuple(_op(node) for node in graph.node)
        self.inputs: Mapping[str, str] = {
            value.name: value.name for value in graph.input if value.name not in self._weights
        }
        self._quantizers = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
        self._dequantizers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}

    def size(self, name: str) -> int:
        """Return the bytes that a float activation takes; a guess where the shape is open."""
        dims = self._types[name].shape.dim if name in self._types else ()
        return 4 * int(np.prod([d.dim_value or 1 for d in dims], dtype=np.int64)) if dims else GUESS

    def activations(self) -> tuple[str, ...]:
        """Return the tensors that hold real values and are computed, in order of execution."""
        made = [name for op in self.ops if op.kind not in QUANTIZED_OPS[:1] for name in op.outputs]
        return tuple(name for name in made if self._is_float(name))

    def _is_float(self, name: str) -> bool:
        from onnx import TensorProto

        return name in self._types and self._types[name].elem_type == TensorProto.FLOAT

    def constant(self, name: str) -> Array | None:
        """Return the values of a weight; None for what is computed."""
        from onnx import numpy_helper

        found = self._weights.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def stored(self, name: str) -> Stored | None:
        """Tell how a tensor is stored: by what quantizes it, or dequantized it; of a weight, by its scales."""
        node = self._quantizers.get(name) or self._dequantizers.get(name)
        node = node or self._dequantizers.get(f"{name}_DequantizeLinear_Output")
        scale, zero = (self.constant(node.input[i]) for i in (1, 2)) if node and len(node.input) > 2 else (None, None)
        if node is None or scale is None or zero is None:
            return None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.size > 1 else None
        both = tuple(map(float, scale.ravel())), tuple(map(int, zero.ravel()))
        return Stored(Quantization(*both, axis), zero.dtype.name)

    def program(self, wanted: Sequence[str], given: Collection[str]) -> Program:
        """Make what computes the wanted tensors, from those given tensors that lie on the way.

        What is quantized next comes out rounded to its storage.
        """
        import onnx
        import onnxruntime

        kept = [self._model.graph.node[i] for i in upstream(self.ops, wanted, given)]
        nodes, sources = [], {}
        for node in kept:
            nodes.append(onnx.NodeProto())
            nodes[-1].CopyFrom(node)
            for i, name in enumerate(node.input):
                if name in given:
                    nodes[-1].input[i] = sources[name] = f"{name};given"
        inputs = [_value(new, self._types[old].elem_type) for old, new in sources.items()]
        outputs = [_value(name, onnx.TensorProto.FLOAT) for name in wanted]
        used = {name for node in nodes for name in node.input} | self._inner_names(nodes)
        weights = [tensor for name, tensor in self._weights.items() if name in used]
        graph = onnx.helper.make_graph(nodes, "part", inputs, outputs, weights)
        part = onnx.helper.make_model(graph, ir_version=self._model.ir_version)
        del part.opset_import[:]
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        with foreign(self.path, "its engine refuses a part of it", error=EngineError):
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry(*FLOAT_MATRICES)
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=WITHOUT
            )
        stored = {name: self.stored(name) for name in wanted}

        def run(values: Mapping[str, Array]) -> dict[str, Array]:
            feeds = {new: values[old] for old, new in sources.items()}
            found = dict(zip(wanted, session.run(list(wanted), feeds), strict=True))
            return {name: _round(stored[name], value) for name, value in found.items()}

        return Program(self.path, tuple(sources), run)

    @staticmethod
    def _inner_names(nodes: Sequence[Any]) -> set[str]:
        """Return what the bodies of ``If`` and ``Loop`` read."""
        bodies = [a.g for node in nodes for a in node.attribute if a.HasField("g")]
        return {name for body in bodies for graph in graphs(body) for node in graph.node for name in node.input}


def _refuse_large(path: Path) -> None:
    """Refuse a file that cannot be cut into parts in memory.

    Raises:
        ArtifactError: If its weights take more than one ONNX file can hold.
    """
    if artifact_size(path) > onnx_file.LARGEST:
        reason = f"holds {artifact_size(path):,} bytes, and layers are compared only where one ONNX file can hold it"
        raise ArtifactError(path, reason, "explain a smaller model of the same layers")


def _prepared(model: Any) -> Any:
    import onnx

    with scratch() as folder:
        prepare(model, folder / "float.onnx")
        return onnx.load(str(folder / "float.onnx"))


def _op(node: Any) -> Op:
    """Describe a node; what its bodies read from outside counts as its input."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    inner = [name for body in bodies for graph in graphs(body) for n in graph.node for name in n.input]
    name = node.name or (node.output[0] if node.output else node.op_type)
    return Op(node.op_type, name, tuple(filter(None, (*node.input, *inner))), tuple(filter(None, node.output)))


def _value(name: str, kind: int) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, None)


def _round(stored: Stored | None, value: Array) -> Array:
    return stored.round(value) if stored else value
