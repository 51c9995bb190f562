"""Names in TFLite signatures and ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeferry_runtime
from edgeferry_converter.sources import SourceSpec, open_source, signature
from edgeferry_converter.sources.onnx_graph import finish, rename
from edgeferry_converter.sources.tensors import unique
from edgeferry_runtime.errors import ConversionError

NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)


@pytest.fixture(scope="session")
def adder() -> bytes:
    """A TFLite model of two inputs, x and y, and two outputs, their sum and product; it has no signature."""
    return _adder()


def _adder() -> bytes:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.description = 3, [graph], [schema.BufferT()], "adder"
    graph.tensors = [_tensor(name) for name in ("x", "y", "sum", "product")]
    graph.inputs, graph.outputs = [0, 1], [2, 3]
    kinds = (
        (schema.BuiltinOperator.ADD, schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
        (schema.BuiltinOperator.MUL, schema.BuiltinOptions.MulOptions, schema.MulOptionsT()),
    )
    model.operatorCodes, graph.operators = [], []
    for i, (builtin, options_type, options) in enumerate(kinds):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, builtin, 1
        operator.opcodeIndex, operator.inputs, operator.outputs = i, [0, 1], [2 + i]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    return signature.pack(model)


def _tensor(name: str) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 2], schema.TensorType.FLOAT32, 0
    return tensor


def test_ensure_adds_what_is_missing(adder: bytes) -> None:
    assert signature.read(adder) is None
    signed = signature.ensure(adder)
    assert signature.read(signed) == signature.Signature(("x", "y"), ("sum", "product"))
    assert signature.ensure(signed) is signed


@pytest.mark.slow
def test_a_source_without_a_signature_gets_one(adder: bytes, tmp_path: Path) -> None:
    (tmp_path / "adder.tflite").write_bytes(adder)
    source = open_source(SourceSpec(tmp_path / "adder.tflite"))
    source.lower("tflite", tmp_path / "lowered.tflite")
    own = signature.read((tmp_path / "lowered.tflite").read_bytes())
    assert own == signature.Signature(("x", "y"), ("sum", "product"))
    assert [t.name for t in source.inputs] == ["x", "y"]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(names=st.lists(NAMES, min_size=4, max_size=4, unique=True), swap=st.booleans())
def test_renamed_models_compute_the_same(
    adder: bytes, tmp_path_factory: pytest.TempPathFactory, names: list[str], swap: bool
) -> None:
    x, y, total, product = names
    inputs = {"y": y, "x": x} if swap else {"x": x, "y": y}
    model = signature.rename(signature.ensure(adder), inputs, {"product": product, "sum": total})
    assert signature.read(model) == signature.Signature(tuple(inputs.values()), (product, total))
    assert model == signature.rename(signature.ensure(adder), inputs, {"product": product, "sum": total})
    path = tmp_path_factory.getbasetemp() / "renamed.tflite"
    path.write_bytes(model)
    with edgeferry_runtime.load(path) as loaded:
        answer = loaded.run({x: np.array([[2, 3]], np.float32), y: np.array([[5, 7]], np.float32)})
    assert answer[total].tolist() == [[7, 10]]
    assert answer[product].tolist() == [[10, 21]]


def test_rename_wants_every_name(adder: bytes) -> None:
    with pytest.raises(ConversionError, match=r"its signature has \['x', 'y'\], not \['x'\]"):
        signature.rename(signature.ensure(adder), {"x": "a"}, {"sum": "b", "product": "c"})
    with pytest.raises(ConversionError, match="has no signature"):
        signature.rename(adder, {"x": "a", "y": "b"}, {"sum": "c", "product": "d"})


def test_buffers_are_aligned() -> None:
    tree = signature._parse(_adder())
    for size in (1, 5, 64):
        buffer = schema.BufferT()
        buffer.data = np.arange(size, dtype=np.uint8)
        tree.buffers.append(buffer)
    packed = signature.pack(tree)
    model = schema.Model.GetRootAs(packed, 0)
    for i in range(1, model.BuffersLength()):
        table = model.Buffers(i)._tab
        assert table.Vector(table.Offset(4)) % 16 == 0
        assert model.Buffers(i).DataAsNumpy().tolist() == list(range(model.Buffers(i).DataLength()))


def test_weights_outside_the_flatbuffer_are_refused() -> None:
    tree = signature._parse(_adder())
    buffer = schema.BufferT()
    buffer.offset, buffer.size = 4096, 16
    tree.buffers.append(buffer)
    with pytest.raises(ConversionError, match="outside its flatbuffer"):
        signature.pack(tree)


def test_unique() -> None:
    assert unique(["a", "b", "a", "a", "a_1"]) == ["a", "b", "a_1", "a_2", "a_1_1"]


@given(st.lists(st.sampled_from("abc")))
def test_unique_is_unique_and_keeps_first_names(names: list[str]) -> None:
    made = unique(names)
    assert len(set(made)) == len(made) == len(names)
    assert all(new.startswith(old) for new, old in zip(made, names, strict=True))


def branching() -> object:
    """An ONNX graph whose If bodies see the outer input, with an inner value that is named like a wanted output."""
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    bodies = [
        helper.make_graph([helper.make_node(op, ["in_0"], [name])], op, [], [value(name, TensorProto.FLOAT, [1, 2])])
        for op, name in (("Neg", "n"), ("Abs", "a"))
    ]
    nodes = [
        helper.make_node("ReduceSum", ["in_0"], ["answer"], keepdims=0),
        helper.make_node("Greater", ["answer", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["out_0"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    inputs, outputs = [value("in_0", TensorProto.FLOAT, [1, 2])], [value("out_0", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [zero])
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_onnx_rename_reaches_into_bodies_and_evades_collisions(tmp_path: Path) -> None:
    model = rename(branching(), {"in_0": "the input"}, {"out_0": "answer"})
    (tmp_path / "m.onnx").write_bytes(finish("m", model))
    with edgeferry_runtime.load(tmp_path / "m.onnx") as loaded:
        assert [t.name for t in (*loaded.inputs, *loaded.outputs)] == ["the input", "answer"]
        for sign in (1, -1):
            feed = np.full((1, 2), sign, np.float32)
            assert loaded.run({"the input": feed})["answer"].tolist() == [[-1, -1] if sign > 0 else [1, 1]]


def test_onnx_rename_wants_the_names_that_are_there() -> None:
    with pytest.raises(ConversionError, match=r"has \['in_0'\], not \['b'\]"):
        rename(branching(), {"a": "b"}, {"out_0": "c"})


def test_finish_refuses_a_wrong_graph() -> None:
    model = branching()
    model.graph.node[0].op_type = "NoSuchOp"  # type: ignore[attr-defined]
    with pytest.raises(ConversionError, match="the ONNX checker refused the graph"):
        finish("m", model)
