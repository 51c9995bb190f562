"""Lies of an ONNX file that is sound protobuf: a graph that cannot be."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper
from places import encode_varint

HUGE = (-1, 0, -(1 << 31), -(1 << 63), 1 << 20, 1 << 31, 1 << 32, 1 << 40, (1 << 62) + 1, (1 << 63) - 1)
OPERATORS = (
    *("Loop", "Scan", "If", "Gather", "GatherND", "ScatterND", "Slice", "Pad", "Tile", "Expand", "Resize", "Reshape"),
    *("Range", "ConstantOfShape", "OneHot", "LSTM", "GRU", "Einsum", "Conv", "ConvTranspose", "MaxPool", "MatMul"),
    *("Softmax", "Split", "TopK", "NonMaxSuppression", "QLinearConv", "DequantizeLinear", "Compress", "NoSuchOperator"),
)
ESCAPES = ("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a/../../b", "C:\\weights", "", ".", "\0", "x" * 5000)

_parsed = functools.lru_cache(maxsize=4)(onnx.load_from_string)


def _of_model(damage: Callable[[Any, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def apply(data: bytes, dice: random.Random) -> bytes:
        model = copy.deepcopy(_parsed(data))
        damage(model, dice)
        return bytes(model.SerializeToString())

    return apply


def _graphs(graph: Any) -> list[Any]:
    """Return a graph and those in its nodes."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(deeper for each in inner for deeper in _graphs(each))]


def _nodes(model: Any) -> list[Any]:
    return [node for graph in _graphs(model.graph) for node in graph.node]


def _tensors(model: Any) -> list[Any]:
    kept = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer]
    return kept + [attribute.t for node in _nodes(model) for attribute in node.attribute if attribute.HasField("t")]


def _dims(model: Any, dice: random.Random) -> None:
    tensor = dice.choice(_tensors(model))
    dims = list(tensor.dims) or [1]
    lies: Sequence[Sequence[int]] = (
        [dice.choice(HUGE) if dice.randrange(2) else dim for dim in dims],
        [*dims, dice.choice(HUGE)],
        [1 << 32, 1 << 32],
        dims[:-1],
        [1 << 16] * 5,
        [1] * 300,
    )
    tensor.ClearField("dims")
    tensor.dims.extend(dice.choice(lies))


def _value(model: Any, dice: random.Random) -> None:
    """Let an input or an output have another shape or type."""
    value = dice.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])
    kind = value.type.tensor_type
    if dice.randrange(3) == 0:
        kind.elem_type = dice.choice((0, 1, 2, 7, 8, 9, 10, 14, 16, 23, 99, -1))
    elif kind.shape.dim:
        dice.choice(kind.shape.dim).dim_value = dice.choice(HUGE)
    else:
        kind.shape.dim.add().dim_value = dice.choice(HUGE)


def _dtype(model: Any, dice: random.Random) -> None:
    dice.choice(_tensors(model)).data_type = dice.choice((0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 23, 77, -1))


def _raw(model: Any, dice: random.Random) -> None:
    """Let a tensor hold fewer, more or other bytes than its shape needs."""
    tensor = dice.choice(_tensors(model))
    raw = tensor.raw_data
    if dice.randrange(4) == 0:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0] * dice.randrange(5))
    else:
        tensor.raw_data = dice.choice((b"", raw[:-1], raw[: len(raw) // 2], raw + b"1234", dice.randbytes(8)))


def _missing(model: Any, dice: random.Random) -> None:
    lists = [
        items for graph in _graphs(model.graph) for items in (graph.initializer, graph.node, graph.input, graph.output)
    ]
    items = dice.choice([items for items in lists if items])
    del items[dice.randrange(len(items))]


def _cycle(model: Any, dice: random.Random) -> None:
    """Let nodes read what is made later, or by themselves, or make what others make."""
    nodes = list(model.graph.node)
    first, second = dice.choice(nodes), dice.choice(nodes)
    if dice.randrange(3) == 0:
        first.output[0] = second.output[0]
    elif first.input:
        first.input[dice.randrange(len(first.input))] = dice.choice(
            (first.output[0], nodes[-1].output[0], "nowhere", "")
        )


def _attribute(model: Any, dice: random.Random) -> None:
    node = dice.choice([node for node in _nodes(model) if node.attribute] or _nodes(model))
    if not node.attribute:
        node.attribute.append(helper.make_attribute("axis", dice.choice(HUGE)))
        return
    attribute = dice.choice(node.attribute)
    if attribute.ints and dice.randrange(3):
        attribute.ints[dice.randrange(len(attribute.ints))] = dice.choice(HUGE)
    elif attribute.ints:
        del attribute.ints[dice.randrange(len(attribute.ints)) :]
    elif dice.randrange(3) == 0:
        attribute.type = dice.randrange(15)
    else:
        attribute.i, attribute.f = dice.choice(HUGE), dice.choice((float("nan"), float("inf"), -1.0))


def _operator(model: Any, dice: random.Random) -> None:
    node = dice.choice(_nodes(model))
    if dice.randrange(4):
        node.op_type = dice.choice(OPERATORS)
    else:
        node.domain = dice.choice(("com.microsoft", "ai.onnx.ml", "nowhere", "\xff"))


def _arity(model: Any, dice: random.Random) -> None:
    node = dice.choice(_nodes(model))
    side = dice.choice((node.input, node.output))
    change = dice.randrange(3)
    if change and side:
        del side[dice.randrange(len(side)) :]
    else:
        side.extend([dice.choice((*side, "", "extra"))] * dice.choice((1, 3, 500)))


def _depth(data: bytes, dice: random.Random) -> bytes:
    """Nest an If in an If, deeper than any parser goes; a second graph in a file is added to the first."""
    graph = b""
    for _ in range(dice.choice((3, 30, 33, 45, 90, 200, 1000))):
        branch = _field(1, b"then_branch") + encode_varint(20 << 3) + b"\x05" + _field(6, graph)
        graph = _field(1, _field(1, b"condition") + _field(2, b"chosen") + _field(4, b"If") + _field(5, branch))
    return data + _field(7, graph)


def _field(number: int, content: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def _external(model: Any, dice: random.Random) -> None:
    tensor = dice.choice(_tensors(model))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    numbers = (str(number) for number in dice.choices((*HUGE, 4096), k=2))
    for key, value in zip(("location", "offset", "length"), (dice.choice(ESCAPES), *numbers), strict=True):
        tensor.external_data.add(key=key, value=value)


def _opset(model: Any, dice: random.Random) -> None:
    lie = dice.choice((0, -1, 1, 2, 6, 30, 1000, (1 << 63) - 1))
    if dice.randrange(3):
        model.opset_import[0].version = lie
    else:
        model.ir_version = lie


def _function(model: Any, dice: random.Random) -> None:
    """Replace operators by functions of the model that call themselves or each other, or are called doubly."""
    opset = [helper.make_opsetid("", 15), helper.make_opsetid("own", 1)]
    callee = dice.choice(("First", "Second"))
    for name, called in (("First", callee), ("Second", "First")):
        node = helper.make_node(called, ["x"], ["y"], domain="own")
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], [node], opset))
    model.opset_import.append(opset[1])
    node = dice.choice(model.graph.node)
    node.op_type, node.domain = "First", "own"
    del node.attribute[:], node.input[1:], node.output[1:]


def _metadata(model: Any, dice: random.Random) -> None:
    lies = ('{"x": {"scale": [0], "zero_point": [], "axis": 9}}', "[" * 5000, "{}", "null", '{"x": null}', "\0", "NaN")
    key = dice.choice(("edgeferry.quantization", "labels", "names", "preprocessing", ""))
    model.metadata_props.add(key=key, value=dice.choice(lies))


LIES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "depth": _depth,
    **{
        name: _of_model(damage)
        for name, damage in {
            "dims": _dims,
            "value": _value,
            "dtype": _dtype,
            "raw": _raw,
            "missing": _missing,
            "cycle": _cycle,
            "attribute": _attribute,
            "operator": _operator,
            "arity": _arity,
            "external": _external,
            "opset": _opset,
            "function": _function,
            "metadata": _metadata,
        }.items()
    },
}
