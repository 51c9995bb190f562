"""Weights of an ONNX graph as integers, with float computation: a DequantizeLinear stands before each.

int8 has one scale per output channel. int4 is for matrix multiplications, per output channel or in blocks along the
depth; convolutions get int8, because int4 ruins them. Both are symmetric. Standard operators only: ONNX Runtime
turns them into its own kernels when it loads the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from edgeferry_converter.quantize.onnx_prepare import drop_unused_weights, graphs
from edgeferry_runtime.tensors import Array

INT4_OPSET = 21
SMALLEST = 256
"""Weights of fewer elements stay float32: scales and the operator would cost more bytes than are saved."""


class Plan(NamedTuple):
    """How one weight is stored.

    Attributes:
        bits: 8 or 4.
        axis: The axis of the output channels.
        depth: The axis along which blocks lie; only matrices have one.
        block_size: 0 is one scale per channel.
    """

    bits: int
    axis: int
    depth: int
    block_size: int


def quantize_weights(model: Any, precision: str, block_size: int = 0, excluded: Collection[str] = ()) -> Any:
    """Return the model with integer weights.

    Args:
        model: A float ``ModelProto``; it may be changed.
        precision: ``weight-only`` or ``weight-only-int4``.
        block_size: Of int4; 0 is one scale per output channel.
        excluded: Names of nodes that keep float weights.
    """
    from onnx import version_converter

    bits = 4 if precision == "weight-only-int4" else 8
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if bits == 4 and opset < INT4_OPSET:
        model = version_converter.convert_version(model, INT4_OPSET)
    for graph in graphs(model.graph):
        _quantize_graph(graph, bits, block_size, excluded)
    return model


def _quantize_graph(graph: Any, bits: int, block_size: int, excluded: Collection[str]) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == 1}
    made: dict[tuple[str, Plan], Any] = {}
    for node in graph.node:
        if node.name in excluded or len(node.input) < 2 or node.input[1] not in weights:
            continue
        tensor = weights[node.input[1]]
        plan = _plan(node, tensor, bits, block_size)
        if plan is None:
            continue
        if (tensor.name, plan) not in made:
            made[tensor.name, plan] = _store(graph, tensor, plan, len(made))
        node.input[1] = made[tensor.name, plan].output[0]
    nodes = [*made.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)


def _plan(node: Any, tensor: Any, bits: int, block_size: int) -> Plan | None:
    dims = tuple(tensor.dims)
    if int(np.prod(dims)) < SMALLEST:
        return None
    if node.op_type in ("MatMul", "Gemm") and len(dims) == 2:
        flipped = any(a.name == "transB" and a.i for a in node.attribute)
        return Plan(bits, int(not flipped), int(flipped), block_size if bits == 4 else 0)
    if node.op_type == "Conv":
        return Plan(8, 0, 1, 0)
    if node.op_type == "ConvTranspose" and not any(a.name == "group" and a.i != 1 for a in node.attribute):
        return Plan(8, 1, 0, 0)
    return None


def _store(graph: Any, tensor: Any, plan: Plan, number: int) -> Any:
    """Add a weight's integers and scales to a graph, and return the node that makes floats of them."""
    from onnx import helper, numpy_helper

    values = numpy_helper.to_array(tensor)
    stored, scale = integers(values, plan)
    name = f"{tensor.name}_int{plan.bits}_{number}"
    kind = 22 if plan.bits == 4 else 3
    packed = pack_int4(stored) if plan.bits == 4 else stored.tobytes()
    graph.initializer.append(helper.make_tensor(name, kind, values.shape, packed, raw=True))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    blocks = {"block_size": plan.block_size, "axis": plan.depth} if plan.block_size else {"axis": plan.axis}
    names = ([name, f"{name}_scale"], [f"{name}_float"])
    return helper.make_node("DequantizeLinear", *names, f"{name}_dequantize", **blocks)


def integers(values: Array, plan: Plan) -> tuple[Array, Array]:
    """Return a weight's nearest integers and their scales: one per channel, or one per channel and block."""
    largest = 2 ** (plan.bits - 1) - 1
    if plan.block_size:
        count = -(-values.shape[plan.depth] // plan.block_size)
        parts = np.array_split(values, np.arange(1, count) * plan.block_size, axis=plan.depth)
        peak = np.concatenate([np.abs(part).max(axis=plan.depth, keepdims=True) for part in parts], axis=plan.depth)
        scale = _scale(peak, largest)
        wide = np.repeat(scale, plan.block_size, axis=plan.depth)
        wide = np.take(wide, np.arange(values.shape[plan.depth]), axis=plan.depth)
    else:
        others = tuple(i for i in range(values.ndim) if i != plan.axis)
        wide = _scale(np.abs(values).max(axis=others, keepdims=True), largest)
        scale = wide.reshape(-1)
    return np.clip(np.rint(values / wide), -largest, largest).astype(np.int8), scale


def _scale(peak: Array, largest: int) -> Array:
    return np.where(peak > 0, peak / largest, 1.0).astype(np.float32)


def pack_int4(values: Array) -> bytes:
    """Pack two values into a byte, the first one into its low half."""
    flat = values.reshape(-1).astype(np.uint8) & 0xF
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return bytes((flat[0::2] | flat[1::2] << 4).tobytes())


def dequantized(model: Any) -> Iterator[int]:
    """Yield the element type of each weight that a DequantizeLinear reads."""
    for graph in graphs(model.graph):
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in stored:
                yield stored[node.input[0]]
