"""Narrow weights of an ONNX graph, with float computation: a DequantizeLinear stands before each.

int8 and int4 are symmetric, with one scale per output channel. float16 weights stand behind a Cast in the same way.
Matrices of int4 are elsewhere, in `onnx_matrices`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.quantize.onnx_prepare import drop_unused_weights, graphs
from edgeferry_runtime.tensors import Array

INT4_OPSET, INT4_IR = 21, 10
"""What the standard's own DequantizeLinear needs for int4; ONNX Runtime's needs only the tensors."""

DOMAIN = "com.microsoft"
SMALLEST = 256
"""Weights of fewer elements stay float32: scales and the operator would cost more bytes than are saved."""


class Layout(NamedTuple):
    """How one weight is stored.

    Attributes:
        bits: 8 or 4.
        axis: The axis of the output channels, each of which has a scale.
        block_size: Of a matrix of [depth, channels], weights along the depth that share a scale; 0 is all of them.
    """

    bits: int
    axis: int
    block_size: int = 0


def quantize_weights(model: Any, names: Mapping[str, int]) -> None:
    """Give some nodes of a float model integer weights, in place.

    Args:
        model: A float ``ModelProto``.
        names: The bits of each node that gets them, 8 or 4, by its name.
    """
    domain = ""
    if 4 in names.values():
        model.ir_version = max(model.ir_version, INT4_IR)
        domain = "" if opset(model) >= INT4_OPSET else declare(model)
    for graph in graphs(model.graph):
        _quantize_graph(graph, names, domain)


def opset(model: Any) -> int:
    """Return the operator set of a model."""
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))


def declare(model: Any) -> str:
    """Let a model use ONNX Runtime's own operators, and return their domain."""
    from onnx import helper

    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return DOMAIN


def _quantize_graph(graph: Any, names: Mapping[str, int], domain: str) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == 1}
    made: dict[tuple[str, Layout], Any] = {}
    for node in graph.node:
        if node.name not in names or len(node.input) < 2 or node.input[1] not in weights:
            continue
        tensor = weights[node.input[1]]
        found = layout(node, tensor, names[node.name])
        if found is None:
            continue
        if (tensor.name, found) not in made:
            made[tensor.name, found] = _store(graph, tensor, found, len(made))
            made[tensor.name, found].domain = domain if found.bits == 4 else ""
        node.input[1] = made[tensor.name, found].output[0]
    nodes = [*made.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)


def layout(node: Any, tensor: Any, bits: int = 8) -> Layout | None:
    """Say how a node's weights are stored; None where they stay float, being few or of another operator."""
    dims = tuple(tensor.dims)
    if int(np.prod(dims)) < SMALLEST:
        return None
    if node.op_type in ("MatMul", "Gemm") and len(dims) == 2:
        flipped = any(a.name == "transB" and a.i for a in node.attribute)
        return Layout(bits, int(not flipped))
    if node.op_type == "Conv":
        return Layout(bits, 0)
    if node.op_type == "ConvTranspose" and not any(a.name == "group" and a.i != 1 for a in node.attribute):
        return Layout(bits, 1)
    return None


def halve_weights(model: Any, names: Collection[str]) -> None:
    """Halve each large float32 weight and put a Cast behind it; values beyond float16's range stay float32.

    Every engine has the Cast, and computes in float32: nothing depends on float16 kernels.

    Args:
        model: A float ``ModelProto``; it is changed.
        names: The nodes that may read such weights; what another node reads as well stays float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    others = {name for node in nodes if node.name not in names for name in node.input}
    for graph in graphs(model.graph):
        casts = []
        for tensor in graph.initializer:
            small = np.prod(tensor.dims) < SMALLEST
            if tensor.data_type != TensorProto.FLOAT or small or tensor.name in others:
                continue
            values = onnx_file.values(tensor)
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
            casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_to_float32", to=TensorProto.FLOAT))
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _store(graph: Any, tensor: Any, plan: Layout, number: int) -> Any:
    """Add a weight's integers and scales to a graph, and return the node that makes floats of them."""
    from onnx import helper, numpy_helper

    values = onnx_file.values(tensor)
    stored, scale = integers(values, plan)
    name = f"{tensor.name}_int{plan.bits}_{number}"
    kind = 22 if plan.bits == 4 else 3
    packed = pack_int4(stored) if plan.bits == 4 else stored.tobytes()
    graph.initializer.append(helper.make_tensor(name, kind, values.shape, packed, raw=True))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    names = ([name, f"{name}_scale"], [f"{name}_float"])
    return helper.make_node("DequantizeLinear", *names, f"{name}_dequantize", axis=plan.axis)


def integers(values: Array, plan: Layout) -> tuple[Array, Array]:
    """Return a weight's nearest integers and their scales: one per channel, or one per block and channel."""
    largest = 2 ** (plan.bits - 1) - 1
    if plan.block_size:
        starts = np.arange(0, len(values), plan.block_size)
        scale = _scale(np.maximum.reduceat(np.abs(values), starts), largest)
        wide = np.repeat(scale, plan.block_size, axis=0)[: len(values)]
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
