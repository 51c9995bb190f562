"""Integer inputs and outputs for a QDQ model: the outermost quantize and dequantize nodes go away.

Where an input or output was left in float, because its operator has no integer form, one such node comes in. What
the nodes knew goes into the model's metadata, under "edgeferry.quantization", as JSON: for each tensor name its
``scale``, ``zero_point`` and ``axis``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgeferry_converter.quantize.onnx_prepare import graphs
from edgeferry_runtime.tensors import Array

METADATA_KEY = "edgeferry.quantization"

Steps = tuple[Array, Array]
"""A scale and a zero point."""


def make_borders_integer(model: Any, ranges: Mapping[str, tuple[float, float]], *, unsigned: bool = False) -> None:
    """Make each float input and output of a QDQ model an integer one, in place.

    Args:
        model: The model.
        ranges: The lowest and highest value of each float input and output.
        unsigned: Whether the model's activations, and so its borders, are uint8 and not int8.
    """
    from onnx import TensorProto

    graph = model.graph
    found: dict[str, dict[str, Any]] = {}
    sides = ((graph.input, _strip_input, _dequantize_input), (graph.output, _strip_output, _quantize_output))
    for values, strip, add in sides:
        for value in values:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                steps = _steps(ranges[value.name], unsigned)
                found[value.name] = strip(graph, value.name, steps[1].dtype) or add(graph, value.name, steps)
                value.type.tensor_type.elem_type = TensorProto.UINT8 if unsigned else TensorProto.INT8
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(found, sort_keys=True)


def _dequantize_input(graph: Any, name: str, steps: Steps) -> dict[str, Any]:
    real = f"{name}_real"
    _rename_uses(graph, name, real)
    graph.node.insert(0, _node(graph, "DequantizeLinear", (name, real), steps))
    return _parameters(graph, graph.node[0])


def _quantize_output(graph: Any, name: str, steps: Steps) -> dict[str, Any]:
    real = f"{name}_real"
    _rename_uses(graph, name, real)
    _rename_product(graph, name, real)
    graph.node.append(_node(graph, "QuantizeLinear", (real, name), steps))
    return _parameters(graph, graph.node[-1])


def _steps(extremes: tuple[float, float], unsigned: bool) -> Steps:
    """Return the scale and zero point whose 256 steps reach over the extremes and zero."""
    low, high = min(0.0, extremes[0]), max(0.0, extremes[1])
    scale = (high - low) / 255 or 1.0
    dtype = np.uint8 if unsigned else np.int8
    limits = np.iinfo(dtype)
    zero_point = np.clip(round(limits.min - low / scale), limits.min, limits.max)
    return np.array(scale, np.float32), np.array(zero_point, dtype)


def _node(graph: Any, kind: str, tensors: tuple[str, str], steps: Steps) -> Any:
    """Make a node between two tensors."""
    from onnx import helper, numpy_helper

    names = (f"{tensors[0]}_border_scale", f"{tensors[0]}_border_zero_point")
    for name, value in zip(names, steps, strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    return helper.make_node(kind, [tensors[0], *names], [tensors[1]], f"{tensors[0]}_border")


def _strip_input(graph: Any, name: str, dtype: Any) -> dict[str, Any] | None:
    """Let the consumers of an input's QuantizeLinear read the input itself; none else may read it."""
    consumers = [node for node in _nodes(graph) if name in node.input]
    if not consumers or any(node.op_type != "QuantizeLinear" for node in consumers):
        return None
    parameters = [_parameters(graph, node) for node in consumers]
    if any(p != parameters[0] for p in parameters) or any(_stored(graph, node) != dtype for node in consumers):
        return None
    for node in consumers:
        _rename_uses(graph, node.output[0], name)
        graph.node.remove(node)
    return parameters[0]


def _strip_output(graph: Any, name: str, dtype: Any) -> dict[str, Any] | None:
    """Let an output be what its DequantizeLinear read; the node stays where others still need its floats."""
    node = next((node for node in graph.node if name in node.output), None)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] in {v.name for v in graph.input}:
        return None
    if _stored(graph, node) != dtype:
        return None
    parameters = _parameters(graph, node)
    stored, real = node.input[0], f"{name}_dequantized"
    used = any(name in other.input for other in _nodes(graph))
    _rename_uses(graph, name, real)
    node.output[0] = real
    _rename_uses(graph, stored, name)
    _rename_product(graph, stored, name)
    if not used:
        graph.node.remove(node)
    return parameters


def _nodes(graph: Any) -> Iterator[Any]:
    return (node for inner in graphs(graph) for node in inner.node)


def _rename_uses(graph: Any, old: str, new: str) -> None:
    """Rename an input of nodes everywhere, in the bodies of ``If`` and ``Loop`` too, which see the outer tensors."""
    for node in _nodes(graph):
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _rename_product(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == old:
                node.output[i] = new


def _parameters(graph: Any, node: Any) -> dict[str, Any]:
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    scale = numpy_helper.to_array(weights[node.input[1]]).ravel()
    zero_point = numpy_helper.to_array(weights[node.input[2]]).ravel()
    return {"scale": [float(s) for s in scale], "zero_point": [int(z) for z in zero_point], "axis": None}


def _stored(graph: Any, node: Any) -> Any:
    """Return the dtype of what a QuantizeLinear makes, or a DequantizeLinear reads."""
    from onnx import numpy_helper

    return next(numpy_helper.to_array(tensor).dtype for tensor in graph.initializer if tensor.name == node.input[2])
