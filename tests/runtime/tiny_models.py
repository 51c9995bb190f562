"""Tiny models, written field by field without a training framework. Each function returns a file's bytes."""

from __future__ import annotations

import itertools
import json

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SCALE, ZERO_POINT = 0.05, 3
DTYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float64": schema.TensorType.FLOAT64,
    "float16": schema.TensorType.FLOAT16,
    "complex64": schema.TensorType.COMPLEX64,
    "bool": schema.TensorType.BOOL,
    "object": schema.TensorType.STRING,
    "resource": schema.TensorType.RESOURCE,
    **{f"int{bits}": getattr(schema.TensorType, f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(schema.TensorType, f"UINT{bits}") for bits in (8, 16, 32, 64)},
}


class Graph:
    """A TFLite file, built up tensor by tensor; a signature runs its last subgraph."""

    def __init__(self) -> None:
        self.earlier: list[schema.SubGraphT] = []
        self.subgraph = schema.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.codes: list[schema.OperatorCodeT] = []
        self.buffers = [schema.BufferT()]

    def next_subgraph(self, inputs, outputs) -> None:
        self.subgraph.inputs, self.subgraph.outputs = list(inputs), list(outputs)
        self.earlier.append(self.subgraph)
        self.subgraph = schema.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []

    def tensor(self, name, shape, dtype="float32", data=None, quantization=None, signature=None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), DTYPES[dtype], 0
        tensor.shapeSignature = signature
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if quantization:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [quantization[0]], [quantization[1]]
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def operator(self, kind, inputs, outputs, options_type=0, options=None, custom=None) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
        code.customCode = custom
        self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self.subgraph.operators.append(operator)

    def file(self, inputs, outputs, signature=None) -> bytes:
        self.subgraph.inputs, self.subgraph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.description = 3, [*self.earlier, self.subgraph], "tiny"
        model.operatorCodes, model.buffers = self.codes, self.buffers
        if signature:
            model.signatureDefs = [_signature(*signature)]
            model.signatureDefs[0].subgraphIndex = len(model.subgraphs) - 1
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _signature(inputs: dict[str, int], outputs: dict[str, int]) -> schema.SignatureDefT:
    found = schema.SignatureDefT()
    found.signatureKey = "serving_default"
    found.inputs, found.outputs = [], []
    for side, names in ((found.inputs, inputs), (found.outputs, outputs)):
        for name, index in names.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            side.append(entry)
    return found


def _binary(graph: Graph, kind: str, a: int, b: int, out: int) -> None:
    operator, options_type, options = {
        "add": (schema.BuiltinOperator.ADD, schema.BuiltinOptions.AddOptions, schema.AddOptionsT),
        "sub": (schema.BuiltinOperator.SUB, schema.BuiltinOptions.SubOptions, schema.SubOptionsT),
    }[kind]
    graph.operator(operator, (a, b), (out,), options_type, options())


def tflite_double(dynamic: bool = False, width: int = 4) -> bytes:
    """``y = x + x`` of float32 [1, 4], or [?, 4]."""
    graph = Graph()
    signature = [-1, width] if dynamic else None
    x = graph.tensor("x", (1, width), signature=signature)
    y = graph.tensor("y", (1, width), signature=signature)
    _binary(graph, "add", x, x, y)
    return graph.file((x,), (y,))


def tflite_logistic_int8() -> bytes:
    """``y = sigmoid(x)``, int8 [1, 4] in and out."""
    graph = Graph()
    x = graph.tensor("x", (1, 4), "int8", quantization=(SCALE, ZERO_POINT))
    y = graph.tensor("y", (1, 4), "int8", quantization=(1 / 256, -128))
    graph.operator(schema.BuiltinOperator.LOGISTIC, (x,), (y,))
    return graph.file((x,), (y,))


def tflite_pair() -> bytes:
    """``total = b + a`` and ``gap = b - a``, whose signature sorts what the source had as (b, a) and (total, gap)."""
    graph = Graph()
    b, a, total, gap = (graph.tensor(f"t_{name}:0", (2, 3)) for name in ("b", "a", "total", "gap"))
    _binary(graph, "add", b, a, total)
    _binary(graph, "sub", b, a, gap)
    return graph.file((b, a), (total, gap), ({"a": a, "b": b}, {"gap": gap, "total": total}))


def tflite_second_subgraph() -> bytes:
    """``y = x - x`` in the main subgraph; ``answer = question + question`` in the one of the signature."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    _binary(graph, "sub", x, x, y)
    graph.next_subgraph((x,), (y,))
    question, answer = graph.tensor("q", (1, 4)), graph.tensor("a", (1, 4))
    _binary(graph, "add", question, question, answer)
    return graph.file((question,), (answer,), ({"question": question}, {"answer": answer}))


def tflite_dense(width: int, layers: int, rows: int = 1) -> bytes:
    """`layers` square dense layers of `width` on so many rows: some microseconds of work a row."""
    graph = Graph()
    weights = np.random.default_rng(0).normal(0, 1 / width, (width, width)).astype(np.float32)
    first = last = graph.tensor("x", (rows, width))
    for i in range(layers):
        constant = graph.tensor(f"w{i}", (width, width), data=weights)
        bias = graph.tensor(f"b{i}", (width,), data=np.zeros(width, np.float32))
        out = graph.tensor("y" if i == layers - 1 else f"h{i}", (rows, width))
        kind = schema.BuiltinOptions.FullyConnectedOptions
        options = schema.FullyConnectedOptionsT()
        graph.operator(schema.BuiltinOperator.FULLY_CONNECTED, (last, constant, bias), (out,), kind, options)
        last = out
    return graph.file((first,), (last,))


def tflite_planted() -> bytes:
    """Dense layers on 32 rows, of which the third, ``h2``, has by far the most to do; then a softmax, ``y``."""
    graph, rows = Graph(), 32
    first = last = graph.tensor("x", (rows, 8))
    for i, (width, wide) in enumerate(itertools.pairwise((8, 8, 512, 512, 8))):
        weights = np.full((wide, width), 1 / width, np.float32)
        constant, out = graph.tensor(f"w{i}", weights.shape, data=weights), graph.tensor(f"h{i}", (rows, wide))
        kind, options = schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()
        graph.operator(schema.BuiltinOperator.FULLY_CONNECTED, (last, constant, -1), (out,), kind, options)
        last = out
    out, softmax = graph.tensor("y", (rows, 8)), schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph.operator(schema.BuiltinOperator.SOFTMAX, (last,), (out,), schema.BuiltinOptions.SoftmaxOptions, softmax)
    return graph.file((first,), (out,))


def tflite_if() -> bytes:
    """``y = x + x`` where ``flag``, else ``y = x - x``: two other subgraphs."""
    graph = Graph()
    flag, x, y = graph.tensor("flag", (1,), "bool"), graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    options = schema.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = 1, 2
    graph.operator(schema.BuiltinOperator.IF, (flag, x), (y,), schema.BuiltinOptions.IfOptions, options)
    graph.next_subgraph((flag, x), (y,))
    for kind in ("add", "sub"):
        x, y = graph.tensor("x", (1, 4)), graph.tensor(kind, (1, 4))
        _binary(graph, kind, x, x, y)
        if kind == "add":
            graph.next_subgraph((x,), (y,))
    return graph.file((x,), (y,))


def tflite_colors(ending: str = "") -> bytes:
    """``y`` [1, 3] is the mean of each channel of ``x`` [1, 2, 2, 3]; then a softmax, or an identity matrix."""
    graph = Graph()
    x, last = graph.tensor("x", (1, 2, 2, 3)), graph.tensor("h" if ending else "y", (1, 3))
    axes = graph.tensor("axes", (2,), "int32", data=np.int32([1, 2]))
    kind = schema.BuiltinOptions.ReducerOptions
    graph.operator(schema.BuiltinOperator.MEAN, (x, axes), (last,), kind, schema.ReducerOptionsT())
    if ending == "softmax":
        out, options = graph.tensor("y", (1, 3)), schema.SoftmaxOptionsT()
        options.beta = 1.0
        graph.operator(schema.BuiltinOperator.SOFTMAX, (last,), (out,), schema.BuiltinOptions.SoftmaxOptions, options)
        last = out
    elif ending == "linear":
        weights, out = graph.tensor("w", (3, 3), data=np.eye(3, dtype=np.float32)), graph.tensor("y", (1, 3))
        kind, options = schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()
        graph.operator(schema.BuiltinOperator.FULLY_CONNECTED, (last, weights, -1), (out,), kind, options)
        last = out
    return graph.file((x,), (last,))


def tflite_reshape(dtype: str) -> bytes:
    """``y = x``, [1, 4] to [2, 2], of any dtype."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4), dtype), graph.tensor("y", (2, 2), dtype)
    shape = graph.tensor("shape", (2,), "int32", data=np.int32([2, 2]))
    options = schema.ReshapeOptionsT()
    options.newShape = [2, 2]
    graph.operator(schema.BuiltinOperator.RESHAPE, (x, shape), (y,), schema.BuiltinOptions.ReshapeOptions, options)
    return graph.file((x,), (y,))


def tflite_sum() -> bytes:
    """``y`` is the sum of every ``x`` so far, float32 [1, 4], kept in a resource variable."""
    graph = Graph()
    handle = _variable(graph)
    x, before, y = (graph.tensor(name, (1, 4)) for name in ("x", "before", "y"))
    graph.operator(schema.BuiltinOperator.READ_VARIABLE, (handle,), (before,))
    _binary(graph, "add", before, x, y)
    graph.operator(schema.BuiltinOperator.ASSIGN_VARIABLE, (handle, y), ())
    once = schema.CallOnceOptionsT()
    once.initSubgraphIndex = 1
    graph.operator(schema.BuiltinOperator.CALL_ONCE, (), (), schema.BuiltinOptions.CallOnceOptions, once)
    graph.subgraph.operators.insert(0, graph.subgraph.operators.pop())
    graph.next_subgraph((x,), (y,))
    handle, zeros = _variable(graph), graph.tensor("zeros", (1, 4), data=np.zeros((1, 4), np.float32))
    graph.operator(schema.BuiltinOperator.ASSIGN_VARIABLE, (handle, zeros), ())
    return graph.file((), ())


def _variable(graph: Graph) -> int:
    handle, options = graph.tensor("handle", (1,), "resource"), schema.VarHandleOptionsT()
    options.container, options.sharedName = "", "sum"
    graph.operator(schema.BuiltinOperator.VAR_HANDLE, (), (handle,), schema.BuiltinOptions.VarHandleOptions, options)
    return handle


def tflite_custom(name: str) -> bytes:
    """A model of one operator that no engine has."""
    graph = Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator(schema.BuiltinOperator.CUSTOM, (x,), (y,), custom=name)
    return graph.file((x,), (y,))


def _onnx(nodes, inputs, outputs, constants=(), metadata=None) -> bytes:
    import onnx

    graph = onnx.helper.make_graph(nodes, "tiny", inputs, outputs, list(constants))
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


def _value(name, shape, kind="FLOAT"):
    import onnx

    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)


def onnx_double(dynamic: bool = False, width: int = 4) -> bytes:
    """``y = x + x`` of float32 [1, 4], or [?, 4]."""
    import onnx

    shape = ["n" if dynamic else 1, width]
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    return _onnx([node], [_value("x", shape)], [_value("y", shape)])


def onnx_identity_int8() -> bytes:
    """``y = x``, int8 [1, 4] whose metadata tells the scale."""
    import onnx

    one = {"scale": [SCALE], "zero_point": [ZERO_POINT], "axis": None}
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    metadata = {"edgeferry.quantization": json.dumps({"x": one, "y": one})}
    return _onnx([node], [_value("x", [1, 4], "INT8")], [_value("y", [1, 4], "INT8")], metadata=metadata)


def onnx_identity(dtype: str) -> bytes:
    """``y = x``, [1, 4] of any dtype."""
    import onnx

    kind = "STRING" if dtype == "object" else {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    return _onnx([node], [_value("x", [1, 4], kind)], [_value("y", [1, 4], kind)])


def onnx_colors(ending: str = "") -> bytes:
    """The same as `tflite_colors`."""
    import onnx

    axes, eye = (
        onnx.numpy_helper.from_array(array, name)
        for array, name in ((np.int64([1, 2]), "axes"), (np.eye(3, dtype=np.float32), "w"))
    )
    nodes = [onnx.helper.make_node("ReduceMean", ["x", "axes"], ["h" if ending else "y"], keepdims=0)]
    if ending == "softmax":
        nodes.append(onnx.helper.make_node("Softmax", ["h"], ["y"]))
    elif ending == "linear":
        nodes += [onnx.helper.make_node("MatMul", ["h", "w"], ["m"]), onnx.helper.make_node("Identity", ["m"], ["y"])]
    return _onnx(nodes, [_value("x", [1, 2, 2, 3])], [_value("y", [1, 3])], [axes, eye])


def onnx_pair() -> bytes:
    """``total = b + a`` and ``gap = b - a``."""
    import onnx

    nodes = [onnx.helper.make_node(op, ["b", "a"], [out]) for op, out in (("Add", "total"), ("Sub", "gap"))]
    sides = ([_value(name, [2, 3]) for name in names] for names in (("b", "a"), ("total", "gap")))
    return _onnx(nodes, *sides)


def onnx_dense(width: int, layers: int, rows: int = 1) -> bytes:
    """`layers` square dense layers of `width` on so many rows: some microseconds of work a row."""
    import onnx

    weights = np.random.default_rng(0).normal(0, 1 / width, (width, width)).astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [onnx.helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    constant = onnx.numpy_helper.from_array(weights, "w")
    return _onnx(nodes, [_value("x", [rows, width])], [_value("y", [rows, width])], [constant])


def onnx_planted() -> bytes:
    """The same as `tflite_planted`, with an identity before the softmax, which ONNX Runtime removes."""
    import onnx

    nodes, constants = [], []
    for i, (width, wide) in enumerate(itertools.pairwise((8, 8, 512, 512, 8))):
        constants.append(onnx.numpy_helper.from_array(np.full((width, wide), 1 / width, np.float32), f"w{i}"))
        source = "x" if i == 0 else f"h{i - 1}"
        nodes.append(onnx.helper.make_node("MatMul", [source, f"w{i}"], [f"h{i}"], name=f"h{i}"))
    nodes.append(onnx.helper.make_node("Identity", ["h3"], ["same"], name="same"))
    nodes.append(onnx.helper.make_node("Softmax", ["same"], ["y"], name="y"))
    return _onnx(nodes, [_value("x", [32, 8])], [_value("y", [32, 8])], constants)


def onnx_if() -> bytes:
    """``y = x @ w`` where ``flag``, else ``y = x``: two other graphs. Most of the time is in the first."""
    import onnx

    weights = onnx.numpy_helper.from_array(np.full((512, 512), 1 / 512, np.float32), "w")
    branches = [
        onnx.helper.make_graph([onnx.helper.make_node(op, feeds, [out], name=out)], out, [], [_value(out, [64, 512])])
        for op, feeds, out in (("MatMul", ["x", "w"], "then"), ("Identity", ["x"], "else"))
    ]
    node = onnx.helper.make_node("If", ["flag"], ["y"], name="If", then_branch=branches[0], else_branch=branches[1])
    return _onnx([node], [_value("flag", [], "BOOL"), _value("x", [64, 512])], [_value("y", [64, 512])], [weights])


def onnx_external(location: str, offset: int = 0, length: int = 16) -> bytes:
    """``y = x + w``, whose weights lie in another file."""
    import onnx

    constant = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    constant.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        constant.external_data.add(key=key, value=str(value))
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    return _onnx([node], [_value("x", [1, 4])], [_value("y", [1, 4])], [constant])
