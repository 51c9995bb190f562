"""What layers do with channels: their kernels take some and make others."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeferry_converter.compress.on_torch.numbering import varying
from edgeferry_converter.compress.on_torch.sizes import is_depthwise
from edgeferry_converter.compress.on_torch.tracer import Tracer, arguments, scope, shape_of, volume
from edgeferry_runtime.tensors import Array

COMPUTED = "its kernel is computed, not stored"


def convolution(tracer: Tracer, node: Any) -> None:
    """Kernels of [out, in / groups, ...]."""
    given = arguments(node)
    name, groups = tracer.name(given["weight"]), given["groups"]
    if name is None or given.get("transposed"):
        refuse(tracer, node, COMPUTED if name is None else "what it does with channels is not known")
        return
    shape = tracer.tensors[name].shape
    axis = channel_axis(given["input"], shape)
    taken = tracer.along(given["input"], axis)
    depthwise = is_depthwise(shape, groups)
    if depthwise:
        inputs, outputs = None, np.repeat(taken, shape[0] // groups)
        tracer.use(name, 0, outputs, "output")
    else:
        inputs = _grouped(tracer, taken, groups)[0]
        tracer.use(name, 1, inputs, "input")
        outputs = tracer.make(name, 0)
        _grouped(tracer, outputs, groups)
    layer = tracer.layer_of(node, name) if depthwise else tracer.layer(node, name, outputs)
    tracer.cost(layer, volume(node) * shape[1:].numel(), inputs, outputs)
    tracer.use(tracer.name(given["bias"]), 0, outputs, "other")
    tracer.put(node, outputs, axis)


def _grouped(tracer: Tracer, ids: Array, groups: int) -> Array:
    """Make channels one that stand at the same place in each group, so that groups stay alike."""
    rows = ids.reshape(groups, -1)
    for row in rows[1:]:
        tracer.graph.unite(row, rows[0])
    return rows


def transposed(tracer: Tracer, node: Any) -> None:
    """Kernels of [in, out / groups, ...]."""
    given = arguments(node)
    name, groups = tracer.name(given["weight"]), given["groups"]
    if name is None or (groups > 1 and not is_depthwise(tracer.tensors[name].shape, groups, transposed=True)):
        refuse(tracer, node, COMPUTED if name is None else "it is transposed, and has groups")
        return
    shape = tracer.tensors[name].shape
    axis = channel_axis(given["input"], shape)
    taken = tracer.along(given["input"], axis)
    tracer.use(name, 0, taken, "output" if groups > 1 else "input")
    outputs = taken if groups > 1 else tracer.make(name, 1)
    layer = tracer.layer_of(node, name) if groups > 1 else tracer.layer(node, name, outputs)
    macs = volume(given["input"]) * shape[1:].numel()
    tracer.cost(layer, macs, None if groups > 1 else taken, outputs)
    tracer.use(tracer.name(given["bias"]), 0, outputs, "other")
    tracer.put(node, outputs, axis)


def channel_axis(node: Any, kernel: tuple[int, ...]) -> int:
    """Return the axis of channels: the second, or the first where there is no batch."""
    return len(shape_of(node)) - len(kernel) + 1


def linear(tracer: Tracer, node: Any) -> None:
    """Kernels of [out, in]."""
    given = arguments(node)
    name = tracer.name(given["weight"])
    if name is None:
        refuse(tracer, node, COMPUTED)
    else:
        multiply(tracer, node, given["input"], (name, 1))
        tracer.use(tracer.name(given["bias"]), 0, tracer.make(name, 0), "other")


def added_product(tracer: Tracer, node: Any) -> None:
    """A bias and a product of matrices."""
    bias, left, right = node.args[:3]
    found = matrix(tracer, right)
    if found is None:
        refuse(tracer, node, COMPUTED)
        return
    multiply(tracer, node, left, found)
    name = tracer.name(bias)
    if name is not None:
        tracer.use(name, tracer.tensors[name].ndim - 1, tracer.make(found[0], 1 - found[1]), "other")


def matrix(tracer: Tracer, node: Any) -> tuple[str, int] | None:
    """Return the stored matrix that a node is, or is the transposed of, and its axis of inputs."""
    axis = 0
    while node not in tracer.stored:
        if not hasattr(node, "target") or str(node.target) not in TURNS or not node.args:
            return None
        node, axis = node.args[0], 1 - axis
    name = tracer.stored[node]
    return (name, axis) if tracer.tensors[name].ndim == 2 else None


TURNS = ("aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default", "aten.mT.default")


def multiply(tracer: Tracer, node: Any, left: Any, right: tuple[str, int]) -> None:
    """Multiply by a stored matrix; `right` is its name and its axis of inputs."""
    name, axis = right
    taken = tracer.along(left, -1)
    tracer.use(name, axis, taken, "input")
    outputs = tracer.make(name, 1 - axis)
    tracer.cost(tracer.layer(node, name, outputs), volume(node) * len(taken), taken, outputs)
    tracer.put(node, outputs, -1)


def embedding(tracer: Tracer, node: Any) -> None:
    """Rows of a stored table; its columns are channels."""
    name = tracer.name(node.args[0])
    if name is None:
        refuse(tracer, node, COMPUTED)
        return
    outputs = tracer.make(name, 1)
    tracer.layer(node, name, outputs)
    tracer.put(node, outputs, -1)


def batch_norm(tracer: Tracer, node: Any) -> None:
    """A factor, an offset and statistics for each channel."""
    given = arguments(node)
    if tracer.of(given["input"]) is None:
        tracer.values[node] = None
        return
    ids = tracer.along(given["input"], 1)
    tracer.use(tracer.name(given["weight"]), 0, ids, "scale")
    for key in ("bias", "running_mean", "running_var"):
        tracer.use(tracer.name(given[key]), 0, ids, "other")
    tracer.put(node, ids, 1)


def prelu(tracer: Tracer, node: Any) -> None:
    """A slope for each channel, or one for all."""
    given, weight = node.args[0], node.args[1]
    numbers = tracer.of(given)
    if numbers is not None and shape_of(weight) != (1,) and varying(numbers):
        ids, name = tracer.along(given, 1), tracer.name(weight)
        tracer.use(name, 0, ids, "other")
        if name is None:
            tracer.graph.freeze(ids, "prelu meets a value of fixed size")
    tracer.values[node] = numbers


def refuse(tracer: Tracer, node: Any, reason: str) -> None:
    """Freeze what goes into a layer, and say why nothing of it can be removed."""
    layer = scope(node) or node.name
    tracer.graph.kept[layer] = reason
    tracer.blamed[node] = f"{layer!r} makes it, and {reason}"
    for given in node.all_input_nodes:
        tracer.freeze(tracer.of(given), f"{layer!r} takes it, and {reason}")
    tracer.values[node] = None
