"""Tiny models, written field by field: neither a training framework nor the formats' own packages are needed.

Each function returns a file's bytes.
"""

from __future__ import annotations

import itertools
import json
import struct

import numpy as np

SCALE, ZERO_POINT = 0.05, 3
TFLITE_TYPES = {
    **{"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "object": 5, "bool": 6, "int16": 7},
    **{"complex64": 8, "int8": 9, "float64": 10, "uint64": 12, "resource": 13, "uint32": 15, "uint16": 16},
}
ONNX_TYPES = {
    **{"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "object": 8, "bool": 9},
    **{"float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "complex64": 14},
}
OPERATORS = {
    **{"ADD": (0, 11), "FULLY_CONNECTED": (9, 8), "LOGISTIC": (14, 0), "RESHAPE": (22, 17), "SOFTMAX": (25, 9)},
    **{"CUSTOM": (32, 0), "MEAN": (40, 27), "SUB": (41, 28), "ZEROS_LIKE": (93, 0), "CALL_ONCE": (129, 103)},
    **{
        "IF": (118, 92),
        "WHILE": (119, 93),
        "VAR_HANDLE": (142, 111),
        "READ_VARIABLE": (143, 0),
        "ASSIGN_VARIABLE": (144, 0),
    },
}
"""TFLite's code of each operator, and of the table of its options."""


def flatbuffer(root: dict, identifier: bytes) -> bytes:
    """Write a flatbuffer: a dict by slot is a table, a NumPy scalar a field, an array or a list a vector."""
    out = bytearray(4) + identifier
    _refer(out, 0, root)
    return bytes(out)


def _refer(out: bytearray, at: int, value) -> None:
    """Write a value at the end, and how far away it lies at `at`."""
    place = _table if isinstance(value, dict) else _vector
    struct.pack_into("<I", out, at, place(out, value) - at)


def _table(out: bytearray, fields: dict) -> int:
    slots = max(fields, default=-1) + 1
    head = 4 + 2 * slots
    out += bytes((4 - head - len(out)) % 8)
    vtable = [4 + 8 * slot if fields.get(slot) is not None else 0 for slot in range(slots)]
    out += struct.pack(f"<{slots + 2}H", head, 4 + 8 * slots, *vtable)
    table = len(out)
    out += struct.pack("<i", head) + bytes(8 * slots)
    for slot, value in fields.items():
        at = table + 4 + 8 * slot
        if isinstance(value, np.generic):
            out[at : at + value.nbytes] = value.tobytes()
        elif value is not None:
            _refer(out, at, value)
    return table


def _vector(out: bytearray, value) -> int:
    """Write a text, an array, or a list of tables. Arrays are aligned as TFLite wants its buffers."""
    out += bytes((12 - len(out)) % 16)
    start = len(out)
    if isinstance(value, str):
        out += struct.pack("<I", len(value.encode())) + value.encode() + b"\0"
    elif isinstance(value, np.ndarray):
        out += struct.pack("<I", value.size) + value.tobytes()
    else:
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for i, item in enumerate(value):
            _refer(out, start + 4 + 4 * i, item)
    return start


def protobuf(*fields: tuple) -> bytes:
    """Write a message: pairs of a field's number and its value, or a list of values."""
    out = b""
    for number, given in fields:
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, int):
                out += _varint(number << 3) + _varint(value)
            else:
                data = value.encode() if isinstance(value, str) else value
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


class Graph:
    """A TFLite file, built up tensor by tensor; a signature runs its last subgraph."""

    def __init__(self) -> None:
        self.earlier: list[dict] = []
        self.signatures: list[dict] = []
        self.tensors: list[dict] = []
        self.operators: list[dict] = []
        self.codes: list[dict] = []
        self.buffers: list[dict] = [{}]

    def next_subgraph(self, inputs, outputs) -> None:
        self.earlier.append(self._subgraph(inputs, outputs))
        self.tensors, self.operators = [], []

    def _subgraph(self, inputs, outputs) -> dict:
        return {0: self.tensors, 1: np.int32(inputs), 2: np.int32(outputs), 3: self.operators}

    def tensor(self, name, shape, dtype="float32", data=None, quantization=None, signature=None) -> int:
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append({0: np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)})
        tensor = {0: np.int32(shape), 1: np.int8(TFLITE_TYPES[dtype]), 2: np.uint32(buffer), 3: name}
        if quantization:
            tensor[4] = {2: np.float32(quantization[:1]), 3: np.int64(quantization[1:])}
        if signature:
            tensor[7] = np.int32(signature)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, kind, inputs, outputs, options=None, version=1, custom=None) -> None:
        """Add an operator of `OPERATORS`, or one by its two codes; `options` are fields of its table by slot."""
        code, options_type = kind if isinstance(kind, tuple) else OPERATORS[kind]
        known = {0: np.int8(min(code, 127)), 1: custom, 2: np.int32(version), 3: np.int32(code)}
        operator = {0: np.uint32(len(self.codes)), 1: np.int32(inputs), 2: np.int32(outputs)}
        if options_type:
            operator |= {3: np.uint8(options_type), 4: options or {}}
        self.codes.append(known)
        self.operators.append(operator)

    def file(self, inputs, outputs, signature=None) -> bytes:
        subgraphs = [*self.earlier, self._subgraph(inputs, outputs)]
        model = {0: np.uint32(3), 1: self.codes, 2: subgraphs, 3: "tiny", 4: self.buffers}
        if signature:
            model[7] = [*self.signatures, _signature(*signature, subgraph=len(subgraphs) - 1)]
        return flatbuffer(model, b"TFL3")


def _signature(inputs: dict, outputs: dict, key: str = "serving_default", subgraph: int = 0) -> dict:
    sides = ([{0: name, 1: np.uint32(i)} for name, i in side.items()] for side in (inputs, outputs))
    return {**dict(enumerate(sides)), 2: key, 4: np.uint32(subgraph)}


def tflite_double(dynamic: bool = False, width: int = 4) -> bytes:
    """``y = x + x`` of float32 [1, 4], or [?, 4]."""
    graph = Graph()
    signature = [-1, width] if dynamic else None
    x = graph.tensor("x", (1, width), signature=signature)
    y = graph.tensor("y", (1, width), signature=signature)
    graph.operator("ADD", (x, x), (y,))
    return graph.file((x,), (y,))


def tflite_logistic_int8() -> bytes:
    """``y = sigmoid(x)``, int8 [1, 4] in and out."""
    graph = Graph()
    x = graph.tensor("x", (1, 4), "int8", quantization=(SCALE, ZERO_POINT))
    y = graph.tensor("y", (1, 4), "int8", quantization=(1 / 256, -128))
    graph.operator("LOGISTIC", (x,), (y,))
    return graph.file((x,), (y,))


def tflite_pair() -> bytes:
    """``total = b + a`` and ``gap = b - a``, whose signature sorts what the source had as (b, a) and (total, gap)."""
    graph = Graph()
    b, a, total, gap = (graph.tensor(f"t_{name}:0", (2, 3)) for name in ("b", "a", "total", "gap"))
    graph.operator("ADD", (b, a), (total,))
    graph.operator("SUB", (b, a), (gap,))
    return graph.file((b, a), (total, gap), ({"a": a, "b": b}, {"gap": gap, "total": total}))


def tflite_second_subgraph() -> bytes:
    """``y = x - x`` in the main subgraph; ``answer = question + question`` in the one of the signature."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator("SUB", (x, x), (y,))
    graph.next_subgraph((x,), (y,))
    question, answer = graph.tensor("q", (1, 4)), graph.tensor("a", (1, 4))
    graph.operator("ADD", (question, question), (answer,))
    return graph.file((question,), (answer,), ({"question": question}, {"answer": answer}))


def tflite_two_signatures() -> bytes:
    """The signatures ``double``, ``y = x + x``, and ``zero``, ``answer = question - question``, one subgraph each."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator("ADD", (x, x), (y,))
    graph.next_subgraph((x,), (y,))
    question, answer = graph.tensor("q", (2, 3)), graph.tensor("a", (2, 3))
    graph.operator("SUB", (question, question), (answer,))
    graph.signatures = [_signature({"x": x}, {"y": y}, "double")]
    return graph.file((question,), (answer,), ({"question": question}, {"answer": answer}, "zero"))


def tflite_dense(width: int, layers: int, rows: int = 1, version: int = 1) -> bytes:
    """`layers` square dense layers of `width` on so many rows: some microseconds of work a row."""
    graph = Graph()
    weights = np.random.default_rng(0).normal(0, 1 / width, (width, width)).astype(np.float32)
    first = last = graph.tensor("x", (rows, width))
    for i in range(layers):
        constant = graph.tensor(f"w{i}", (width, width), data=weights)
        bias = graph.tensor(f"b{i}", (width,), data=np.zeros(width, np.float32))
        out = graph.tensor("y" if i == layers - 1 else f"h{i}", (rows, width))
        graph.operator("FULLY_CONNECTED", (last, constant, bias), (out,), version=version)
        last = out
    return graph.file((first,), (last,))


def tflite_planted() -> bytes:
    """Dense layers on 32 rows, of which the third, ``h2``, has by far the most to do; then a softmax, ``y``."""
    graph, rows = Graph(), 32
    first = last = graph.tensor("x", (rows, 8))
    for i, (width, wide) in enumerate(itertools.pairwise((8, 8, 512, 512, 8))):
        weights = np.full((wide, width), 1 / width, np.float32)
        constant, out = graph.tensor(f"w{i}", weights.shape, data=weights), graph.tensor(f"h{i}", (rows, wide))
        graph.operator("FULLY_CONNECTED", (last, constant, -1), (out,))
        last = out
    out = graph.tensor("y", (rows, 8))
    graph.operator("SOFTMAX", (last,), (out,), {0: np.float32(1)})
    return graph.file((first,), (out,))


def tflite_if() -> bytes:
    """``y = x + x`` where ``flag``, else ``y = x - x``: two other subgraphs."""
    graph = Graph()
    flag, x, y = graph.tensor("flag", (1,), "bool"), graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator("IF", (flag, x), (y,), {0: np.int32(1), 1: np.int32(2)})
    graph.next_subgraph((flag, x), (y,))
    for kind in ("ADD", "SUB"):
        x, y = graph.tensor("x", (1, 4)), graph.tensor(kind.lower(), (1, 4))
        graph.operator(kind, (x, x), (y,))
        if kind == "ADD":
            graph.next_subgraph((x,), (y,))
    return graph.file((x,), (y,))


def tflite_colors(ending: str = "") -> bytes:
    """``y`` [1, 3] is the mean of each channel of ``x`` [1, 2, 2, 3]; then a softmax, or an identity matrix."""
    graph = Graph()
    x, last = graph.tensor("x", (1, 2, 2, 3)), graph.tensor("h" if ending else "y", (1, 3))
    axes = graph.tensor("axes", (2,), "int32", data=np.int32([1, 2]))
    graph.operator("MEAN", (x, axes), (last,))
    if ending == "softmax":
        out = graph.tensor("y", (1, 3))
        graph.operator("SOFTMAX", (last,), (out,), {0: np.float32(1)})
        last = out
    elif ending == "linear":
        weights, out = graph.tensor("w", (3, 3), data=np.eye(3, dtype=np.float32)), graph.tensor("y", (1, 3))
        graph.operator("FULLY_CONNECTED", (last, weights, -1), (out,))
        last = out
    return graph.file((x,), (last,))


def tflite_reshape(dtype: str) -> bytes:
    """``y = x``, [1, 4] to [2, 2], of any dtype."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4), dtype), graph.tensor("y", (2, 2), dtype)
    shape = graph.tensor("shape", (2,), "int32", data=np.int32([2, 2]))
    graph.operator("RESHAPE", (x, shape), (y,), {0: np.int32([2, 2])})
    return graph.file((x,), (y,))


def tflite_sum() -> bytes:
    """``y`` is the sum of every ``x`` so far, float32 [1, 4], kept in a resource variable."""
    graph = Graph()
    graph.operator("CALL_ONCE", (), (), {0: np.int32(1)})
    handle = _variable(graph)
    x, before, y = (graph.tensor(name, (1, 4)) for name in ("x", "before", "y"))
    graph.operator("READ_VARIABLE", (handle,), (before,))
    graph.operator("ADD", (before, x), (y,))
    graph.operator("ASSIGN_VARIABLE", (handle, y), ())
    graph.next_subgraph((x,), (y,))
    handle, zeros = _variable(graph), graph.tensor("zeros", (1, 4), data=np.zeros((1, 4), np.float32))
    graph.operator("ASSIGN_VARIABLE", (handle, zeros), ())
    return graph.file((), ())


def _variable(graph: Graph) -> int:
    handle = graph.tensor("handle", (1,), "resource")
    graph.operator("VAR_HANDLE", (), (handle,), {0: "", 1: "sum"})
    return handle


def tflite_custom(name: str) -> bytes:
    """A model of one operator that no engine has."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator("CUSTOM", (x,), (y,), custom=name)
    return graph.file((x,), (y,))


def onnx_model(nodes, inputs, outputs, constants=(), metadata=None) -> bytes:
    """Write an ONNX file of `onnx_node`, `onnx_value` and `onnx_constant`, with `metadata_props`."""
    props = [protobuf((1, key), (2, value)) for key, value in (metadata or {}).items()]
    graph = onnx_graph(nodes, inputs, outputs, constants)
    return protobuf((1, 9), (7, graph), (8, protobuf((1, ""), (2, 18))), (14, props))


def onnx_graph(nodes, inputs, outputs, constants=()) -> bytes:
    """One graph, of a model or of a node's attribute."""
    return protobuf((1, list(nodes)), (2, "tiny"), (5, list(constants)), (11, list(inputs)), (12, list(outputs)))


def onnx_node(operator: str, inputs, outputs, name: str = "", **attributes: int | bytes) -> bytes:
    """One node, whose attributes are integers and graphs."""
    told = [
        protobuf((1, key), (3, value), (20, 2)) if isinstance(value, int) else protobuf((1, key), (6, value), (20, 5))
        for key, value in attributes.items()
    ]
    named = [name] if name else []
    return protobuf((1, list(inputs)), (2, list(outputs)), (3, named), (4, operator), (5, told))


def onnx_value(name: str, shape, dtype: str = "float32") -> bytes:
    """One input or output; a dimension is a number or a name, and no shape at all is None."""
    dims = [protobuf((2 if isinstance(dim, str) else 1, dim)) for dim in shape or ()]
    told = [] if shape is None else [protobuf((1, dims))]
    return protobuf((1, name), (2, protobuf((1, protobuf((1, ONNX_TYPES[dtype]), (2, told))))))


def onnx_constant(name: str, array: np.ndarray) -> bytes:
    """One initializer."""
    kind = ONNX_TYPES[array.dtype.name]
    return protobuf((1, list(array.shape)), (2, kind), (8, name), (9, np.ascontiguousarray(array).tobytes()))


def onnx_double(dynamic: bool = False, width: int = 4) -> bytes:
    """``y = x + x`` of float32 [1, 4], or [?, 4]."""
    shape = ["n" if dynamic else 1, width]
    return onnx_model([onnx_node("Add", ["x", "x"], ["y"])], [onnx_value("x", shape)], [onnx_value("y", shape)])


def onnx_identity_int8() -> bytes:
    """``y = x``, int8 [1, 4] whose metadata tells the scale."""
    one = {"scale": [SCALE], "zero_point": [ZERO_POINT], "axis": None}
    metadata = {"edgeferry.quantization": json.dumps({"x": one, "y": one})}
    return onnx_identity("int8", metadata)


def onnx_identity(dtype: str, metadata=None) -> bytes:
    """``y = x``, [1, 4] of any dtype."""
    x, y = (onnx_value(name, [1, 4], dtype) for name in "xy")
    return onnx_model([onnx_node("Identity", ["x"], ["y"])], [x], [y], metadata=metadata)


def onnx_colors(ending: str = "", metadata=None) -> bytes:
    """The same as `tflite_colors`."""
    constants = [onnx_constant("axes", np.int64([1, 2])), onnx_constant("w", np.eye(3, dtype=np.float32))]
    nodes = [onnx_node("ReduceMean", ["x", "axes"], ["h" if ending else "y"], keepdims=0)]
    if ending == "softmax":
        nodes.append(onnx_node("Softmax", ["h"], ["y"]))
    elif ending == "linear":
        nodes += [onnx_node("MatMul", ["h", "w"], ["m"]), onnx_node("Identity", ["m"], ["y"])]
    return onnx_model(nodes, [onnx_value("x", [1, 2, 2, 3])], [onnx_value("y", [1, 3])], constants, metadata)


def onnx_pair() -> bytes:
    """``total = b + a`` and ``gap = b - a``."""
    nodes = [onnx_node(operator, ["b", "a"], [out]) for operator, out in (("Add", "total"), ("Sub", "gap"))]
    sides = ([onnx_value(name, [2, 3]) for name in names] for names in (("b", "a"), ("total", "gap")))
    return onnx_model(nodes, *sides)


def onnx_dense(width: int, layers: int, rows: int = 1) -> bytes:
    """`layers` square dense layers of `width` on so many rows: some microseconds of work a row."""
    weights = np.random.default_rng(0).normal(0, 1 / width, (width, width)).astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [onnx_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    x, y = (onnx_value(name, [rows, width]) for name in "xy")
    return onnx_model(nodes, [x], [y], [onnx_constant("w", weights)])


def onnx_planted() -> bytes:
    """The same as `tflite_planted`, with an identity before the softmax, which ONNX Runtime removes."""
    nodes, constants = [], []
    for i, (width, wide) in enumerate(itertools.pairwise((8, 8, 512, 512, 8))):
        constants.append(onnx_constant(f"w{i}", np.full((width, wide), 1 / width, np.float32)))
        nodes.append(onnx_node("MatMul", [f"h{i - 1}" if i else "x", f"w{i}"], [f"h{i}"], f"h{i}"))
    nodes += [onnx_node("Identity", ["h3"], ["same"], "same"), onnx_node("Softmax", ["same"], ["y"], "y")]
    return onnx_model(nodes, [onnx_value("x", [32, 8])], [onnx_value("y", [32, 8])], constants)


def onnx_if() -> bytes:
    """``y = x @ w`` where ``flag``, else ``y = x``: two other graphs. Most of the time is in the first."""
    weights = onnx_constant("w", np.full((512, 512), 1 / 512, np.float32))
    branches = [
        onnx_graph([onnx_node(operator, feeds, [out], out)], [], [onnx_value(out, [64, 512])])
        for operator, feeds, out in (("MatMul", ["x", "w"], "then"), ("Identity", ["x"], "else"))
    ]
    node = onnx_node("If", ["flag"], ["y"], "If", then_branch=branches[0], else_branch=branches[1])
    inputs = [onnx_value("flag", [], "bool"), onnx_value("x", [64, 512])]
    return onnx_model([node], inputs, [onnx_value("y", [64, 512])], [weights])


def onnx_external(location: str, offset: int = 0, length: int = 16) -> bytes:
    """``y = x + w``, whose weights lie in another file."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    where = [protobuf((1, key), (2, value)) for key, value in entries.items()]
    constant = protobuf((1, 4), (2, 1), (8, "w"), (13, where), (14, 1))
    x, y = (onnx_value(name, [1, 4]) for name in "xy")
    return onnx_model([onnx_node("Add", ["x", "w"], ["y"])], [x], [y], [constant])
