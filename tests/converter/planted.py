"""Models with a planted flaw that int8 suffers from, written operator by operator."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

RNG = np.random.default_rng(7)


class Tflite:
    """A TFLite file of float operators, built up tensor by tensor."""

    def __init__(self) -> None:
        self.graph, self.codes, self.buffers = schema.SubGraphT(), [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name, shape, data=None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(data).tobytes(), np.uint8)
            tensor.type = {"f": schema.TensorType.FLOAT32, "i": schema.TensorType.INT32}[np.asarray(data).dtype.kind]
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind, inputs, output, **options) -> int:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        name = {"FULLY_CONNECTED": "FullyConnected", "CONCATENATION": "Concatenation", "MUL": "Mul", "PADV2": "PadV2"}
        if kind in name:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name[kind]}Options")
            operator.builtinOptions = getattr(schema, f"{name[kind]}OptionsT")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), list(inputs), [output]
        self.codes.append(code)
        self.graph.operators.append(operator)
        return output

    def dense(self, x, name, weights, bias=None) -> int:
        weights = np.asarray(weights, np.float32)
        w = self.tensor(f"{name}/w", weights.shape, weights)
        b = self.tensor(f"{name}/b", weights.shape[:1], np.zeros(len(weights), np.float32) if bias is None else bias)
        return self.operator("FULLY_CONNECTED", (x, w, b), self.tensor(name, (1, len(weights))))

    def file(self, inputs, outputs) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.description = 3, [self.graph], "planted"
        model.operatorCodes, model.buffers = self.codes, self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _normal(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)


def concat() -> bytes:
    """A quiet branch (about 1) and a loud one (about 300) are joined; the head makes them equal again."""
    net = Tflite()
    x = net.tensor("x", (1, 16))
    start = net.dense(x, "start", _normal(16, 16))
    quiet, loud = net.dense(start, "quiet", _normal(8, 16)), net.dense(start, "loud", 300 * _normal(9, 16)[:8])
    joined = net.operator("CONCATENATION", (quiet, loud), net.tensor("joined", (1, 16)), axis=1)
    scale = np.repeat([1, 1 / 300], 8).astype(np.float32)
    middle = net.dense(joined, "head", _normal(12, 16) * scale)
    return net.file((x,), (net.dense(middle, "y", _normal(10, 12)),))


def channel() -> bytes:
    """One of 16 features is 500 times louder than the others; the head makes it equal again."""
    net = Tflite()
    x = net.tensor("x", (1, 16))
    scale = np.where(np.arange(16) == 3, 500, 1).astype(np.float32)
    start = net.dense(x, "start", _normal(16, 16))
    features = net.dense(start, "features", _normal(16, 16) * scale[:, None])
    middle = net.dense(features, "head", _normal(12, 16) / scale)
    return net.file((x,), (net.dense(middle, "y", _normal(10, 12)),))


def swish() -> bytes:
    """x * sigmoid(x) where one feature reaches 40 and the head looks at the others only."""
    net = Tflite()
    x = net.tensor("x", (1, 16))
    scale = np.where(np.arange(16) == 0, 12, 1).astype(np.float32)
    first = net.dense(x, "first", _normal(16, 16))
    start = net.dense(first, "start", _normal(16, 16) * scale[:, None])
    gate = net.operator("LOGISTIC", (start,), net.tensor("gate", (1, 16)))
    swish = net.operator("MUL", (start, gate), net.tensor("swish", (1, 16)))
    head = net.dense(swish, "head", _normal(12, 16) * (scale == 1))
    return net.file((x,), (net.dense(head, "y", _normal(10, 12)),))


def dead() -> bytes:
    """Channel 5 of the features has next to no weights, and a bias."""
    net = Tflite()
    x = net.tensor("x", (1, 16))
    alive = np.where(np.arange(16) == 5, 1e-9, 1).astype(np.float32)
    start = net.dense(x, "start", _normal(16, 16) * alive[:, None], np.where(alive < 1, 1, 0).astype(np.float32))
    return net.file((x,), (net.dense(start, "y", _normal(10, 16)),))


def padding() -> bytes:
    """What lies in about -1 to 1 is padded with -1000."""
    net = Tflite()
    x = net.tensor("x", (1, 16))
    start = net.dense(x, "start", _normal(16, 16))
    pads = net.tensor("pads", (2, 2), np.array([[0, 0], [1, 1]], np.int32))
    value = net.tensor("value", (), np.float32(-1000))
    padded = net.operator("PADV2", (start, pads, value), net.tensor("padded", (1, 18)))
    scale = np.where(np.isin(np.arange(18), (0, 17)), 0, 1).astype(np.float32)
    return net.file((x,), (net.dense(padded, "y", _normal(10, 18) * scale),))


def samples(count: int = 64, seed: int = 0) -> np.ndarray:
    """What the models are calibrated with: [count, 16] of a standard normal distribution."""
    return np.random.default_rng(seed).normal(0, 1, (count, 16)).astype(np.float32)


def onnx_concat() -> bytes:
    """The same as `concat`."""
    weights = {"start": _normal(16, 16), "quiet": _normal(8, 16), "loud": 300 * _normal(9, 16)[:8]}
    weights["head"] = _normal(12, 16) * np.repeat([1, 1 / 300], 8).astype(np.float32)
    weights["y"] = _normal(10, 12)
    ways = (("start", "x"), ("quiet", "start"), ("loud", "start"), ("head", "joined"), ("y", "head"))
    return _onnx(ways, weights, concat=("quiet", "loud"))


def onnx_channel() -> bytes:
    """The same as `channel`."""
    scale = np.where(np.arange(16) == 3, 500, 1).astype(np.float32)
    weights = {"start": _normal(16, 16), "features": _normal(16, 16) * scale[:, None]}
    weights |= {"head": _normal(12, 16) / scale, "y": _normal(10, 12)}
    return _onnx((("start", "x"), ("features", "start"), ("head", "features"), ("y", "head")), weights)


def onnx_pool() -> bytes:
    """A convolution, a pool and another convolution."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["b", "v"], ["y"], "second"),
    ]
    values = [numpy_helper.from_array(_normal(*shape), n) for n, shape in (("w", (4, 1, 3, 3)), ("v", (2, 4, 3, 3)))]
    sides = (("x", [1, 1, 8, 8]), ("y", [1, 2, 2, 2]))
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in sides)
    graph = helper.make_graph(nodes, "planted", inputs, outputs, values)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


def _onnx(ways, weights, concat=()) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, values = [], []
    for name, source in ways:
        if source == "joined":
            nodes.append(helper.make_node("Concat", list(concat), ["joined"], "node_joined", axis=1))
        nodes.append(helper.make_node("MatMul", [source, f"{name}_w"], [name], f"node_{name}"))
        values.append(numpy_helper.from_array(np.ascontiguousarray(weights[name].T), f"{name}_w"))
    sides = (("x", 16), ("y", 10))
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s])] for n, s in sides)
    graph = helper.make_graph(nodes, "planted", inputs, outputs, values)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    return model.SerializeToString()
