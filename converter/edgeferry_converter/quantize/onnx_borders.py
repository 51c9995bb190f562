"""Integer inputs and outputs for a QDQ model: the outermost quantize and dequantize nodes go away.

What they knew goes into the model's metadata, under "edgeferry.quantization", as JSON: for each tensor name its
``scale``, ``zero_point`` and ``axis``.
"""

from __future__ import annotations

import json
from typing import Any

from edgeferry_runtime.errors import ConversionError

METADATA_KEY = "edgeferry.quantization"


def strip_borders(subject: object, model: Any) -> None:
    """Make each float input and output of a QDQ model an int8 one, in place.

    Raises:
        ConversionError: If one of them is not quantized.
    """
    from onnx import TensorProto

    graph = model.graph
    found: dict[str, dict[str, Any]] = {}
    for values, strip in ((graph.input, _strip_input), (graph.output, _strip_output)):
        for value in values:
            if value.type.tensor_type.elem_type != TensorProto.FLOAT:
                continue
            parameters = strip(graph, value.name)
            if parameters is None:
                reason = f"the quantizer left {value.name!r} in float32"
                raise ConversionError(subject, reason, "use --io-dtype float32")
            found[value.name] = parameters
            value.type.tensor_type.elem_type = TensorProto.INT8
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(found, sort_keys=True)


def _strip_input(graph: Any, name: str) -> dict[str, Any] | None:
    """Let the consumers of an input's QuantizeLinear read the input itself; it must be the only consumer."""
    consumers = [node for node in graph.node if name in node.input]
    if not consumers or any(node.op_type != "QuantizeLinear" for node in consumers):
        return None
    parameters = [_parameters(graph, node) for node in consumers]
    if any(p != parameters[0] for p in parameters):
        return None
    for node in consumers:
        _rename_uses(graph, node.output[0], name)
        graph.node.remove(node)
    return parameters[0]


def _strip_output(graph: Any, name: str) -> dict[str, Any] | None:
    """Let an output be what its DequantizeLinear read; the node stays where others still need its floats."""
    node = next((node for node in graph.node if name in node.output), None)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] in {v.name for v in graph.input}:
        return None
    parameters = _parameters(graph, node)
    stored, real = node.input[0], f"{name}_dequantized"
    used = any(name in other.input for other in graph.node)
    _rename_uses(graph, name, real)
    node.output[0] = real
    _rename_uses(graph, stored, name)
    for other in graph.node:
        for i, output in enumerate(other.output):
            if output == stored:
                other.output[i] = name
    if not used:
        graph.node.remove(node)
    return parameters


def _rename_uses(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _parameters(graph: Any, node: Any) -> dict[str, Any]:
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    scale = numpy_helper.to_array(weights[node.input[1]]).ravel()
    zero_point = numpy_helper.to_array(weights[node.input[2]]).ravel()
    return {"scale": [float(s) for s in scale], "zero_point": [int(z) for z in zero_point], "axis": None}
