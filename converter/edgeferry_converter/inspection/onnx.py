"""What an ``.onnx`` file tells about itself, read with the ``onnx`` package and no engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeferry_converter.inspection.arena import estimate
from edgeferry_converter.inspection.graph import BITS, Graph, Node, Value
from edgeferry_converter.inspection.layers import layers, stray_transposes
from edgeferry_converter.inspection.onnx_macs import macs
from edgeferry_converter.inspection.report import Inspection
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.artifact_files import artifact_size
from edgeferry_runtime.errors import CorruptFileError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.tensors import Quantization, TensorSpec

QUANTIZATION = "edgeferry.quantization"
OWN = ("", "ai.onnx", "ai.onnx.ml")
"""The domains of ONNX itself."""

OPTIONS = ("perm", "transA", "K", "N", "direction", "hidden_size", "bits", "accuracy_level")
"""The attributes that MACs and layout are computed from."""


def inspect_onnx(path: Path) -> Inspection:
    """Read one file; weights that it keeps beside itself are counted, not loaded.

    Raises:
        ArtifactError: If it is damaged.
        MissingExtraError: If onnx is not installed.
    """
    onnx = require(path, "quantize", "onnx")
    check_artifact(path)
    with foreign(path, "onnx could not read it", "copy or convert it again", CorruptFileError):
        model = onnx.load(str(path), load_external_data=False)
    scales = _scales(model)
    graphs: list[Graph] = []
    for graph in _graphs(_with_shapes(onnx, model).graph):
        graphs.append(_read(graph, {key: value for outer in graphs for key, value in outer.values.items()}))
    arena = estimate(graphs[0])
    seen: set[str] = set()
    found = tuple(layer for graph in graphs for layer in layers(graph, macs, seen))
    return Inspection(
        path=path,
        format="onnx",
        size=artifact_size(path),
        inputs=_borders(graphs[0].inputs, model.graph.input, scales),
        outputs=_borders(graphs[0].outputs, model.graph.output, scales),
        layers=found,
        arena_bytes=arena,
        transposes=tuple(name for graph in graphs for name in stray_transposes(graph)),
        custom=tuple(sorted({layer.operator for layer in found if "." in layer.operator})),
        metadata=_metadata(model),
        notes=tuple(_notes(graphs, arena)),
    )


def _with_shapes(onnx: Any, model: Any) -> Any:
    """Infer the shapes between inputs and outputs, a dynamic batch being 1; unknown ones stay unknown."""
    fixed = type(model).FromString(model.SerializeToString())
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    try:
        return onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph, and the bodies of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)


def _read(graph: Any, outer: Mapping[str, Value]) -> Graph:
    """Read one graph; what it does not define itself it sees in the graphs around it."""
    values = {v.name: _value(v) for v in (*graph.output, *graph.value_info, *graph.input)}
    values |= {t.name: _constant(t.name, t) for t in graph.initializer}
    nodes = []
    for i, node in enumerate(graph.node):
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            values[node.output[0]] = _constant(node.output[0], tensor)
        elif node.op_type != "Constant":
            nodes.append(_node(node, i))
    for node in nodes:
        _spread(node, values)
    values |= {node.inputs[1]: _unpacked(values[node.inputs[1]], node) for node in nodes if _is_packed(node, values)}
    constants = {t.name for t in graph.initializer}
    inputs = tuple(v.name for v in graph.input if v.name not in constants)
    known = {key for node in nodes for key in (*node.inputs, *node.outputs) if key}
    values |= {key: outer.get(key) or Value(key, None, "") for key in known - values.keys()}
    return Graph(values, tuple(nodes), inputs, tuple(v.name for v in graph.output))


def _dtype(number: int) -> str:
    import onnx

    name = onnx.TensorProto.DataType.Name(number).lower() if number in onnx.TensorProto.DataType.values() else "?"
    return {"float": "float32", "double": "float64", "undefined": ""}.get(name, name)


def _value(value: Any) -> Value:
    kind = value.type.tensor_type
    dims = (d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    shape = tuple(dims) if kind.HasField("shape") else None
    return Value(value.name, shape, _dtype(kind.elem_type))


def _constant(name: str, tensor: Any) -> Value:
    value = Value(name, tuple(tensor.dims), _dtype(tensor.data_type))
    stored = -(-(value.elements or 0) * BITS.get(value.dtype, 0) // 8)
    return Value(name, value.shape, value.dtype, stored=stored, buffer=name)


def _spread(node: Node, values: dict[str, Value]) -> None:
    """Tell what ONNX Runtime's own casts make, which shape inference does not know."""
    kind = {"com.microsoft.QuantizeLinear": 2, "com.microsoft.DequantizeLinear": 1}.get(node.operator)
    if kind is not None and len(node.inputs) > kind and node.inputs[0] in values:
        dtype = values[node.inputs[kind]].dtype if node.inputs[kind] in values else ""
        before = values.get(node.outputs[0])
        shape = before.shape if before and before.shape is not None else values[node.inputs[0]].shape
        values[node.outputs[0]] = Value(node.outputs[0], shape, dtype)


def _is_packed(node: Node, values: Mapping[str, Value]) -> bool:
    return node.operator == "com.microsoft.MatMulNBits" and node.inputs[1] in values


def _unpacked(value: Value, node: Node) -> Value:
    """Describe a matrix that a node reads as bytes by what is packed into them."""
    width, depth, bits = (int(str(node.options.get(key, 0))) for key in ("N", "K", "bits"))
    return replace(value, shape=(width, depth), dtype=f"int{bits}")


def _node(node: Any, index: int) -> Node:
    import onnx

    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name in OPTIONS}
    if "perm" in options:
        options["perm"] = tuple(options["perm"])
    operator = node.op_type if node.domain in OWN else f"{node.domain}.{node.op_type}"
    name = node.name or next(iter(node.output), f"node {index}")
    return Node(operator, name, tuple(node.input), tuple(node.output), options)


def _borders(keys: tuple[str, ...], values: Any, scales: Mapping[str, Quantization]) -> tuple[TensorSpec, ...]:
    found = (_value(v) for v in values if v.name in keys)
    return tuple(TensorSpec(v.name, v.shape or (), v.dtype, scales.get(v.name)) for v in found)


def _scales(model: Any) -> dict[str, Quantization]:
    """Read the scales of integer inputs and outputs, which our converter leaves in the metadata."""
    text = next((p.value for p in model.metadata_props if p.key == QUANTIZATION), "{}")
    try:
        found = json.loads(text)
        return {k: Quantization(tuple(q["scale"]), tuple(q["zero_point"]), q["axis"]) for k, q in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _metadata(model: Any) -> dict[str, Any]:
    producer = f"{model.producer_name} {model.producer_version}".strip()
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    found = {"producer": producer, "opset": opsets, "IR version": model.ir_version, "description": model.doc_string}
    found |= {p.key: p.value for p in model.metadata_props}
    return {key: value for key, value in found.items() if value}


def _notes(graphs: list[Graph], arena: int | None) -> Iterator[str]:
    if len(graphs) > 1:
        yield f"it has {len(graphs) - 1} graphs inside nodes; each counts once"
    if arena is None:
        yield "the arena cannot be told: the shape of a tensor is unknown"
