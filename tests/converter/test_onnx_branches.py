"""Branches of ONNX graphs that are decided before they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeferry_converter import convert
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_converter.sources.constants import parse_constant
from edgeferry_converter.sources.onnx_branches import advice, inline, undecided
from edgeferry_runtime.errors import ConversionError, UnknownNameError, UsageError

X = np.array([[1.0, -2.0, 3.0]], np.float32)


def branch(name: str, nodes: list[Any], output: str, constants: list[Any] = ()) -> Any:  # type: ignore[assignment]
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 3])], constants
    )


def scaled(factor: float) -> Any:
    """Both branches have a constant of the same name, as exporters write them."""
    w = numpy_helper.from_array(np.float32(factor), "w")
    return branch("scaled", [helper.make_node("Mul", ["x", "w"], ["inner"], "mul")], "inner", [w])


def model(nodes: list[Any], *, rate: bool = True, batch: object = "n", constants: list[Any] = ()) -> Any:  # type: ignore[assignment]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])]
    inputs += [helper.make_tensor_value_info("sr", TensorProto.INT64, [])] if rate else []
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.int64(16), "wide"), *constants])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def by_rate(inner: Any | None = None) -> Any:
    return model(
        [
            helper.make_node("Equal", ["sr", "wide"], ["is_wide"]),
            helper.make_node("If", ["is_wide"], ["y"], "choose", then_branch=inner or scaled(2), else_branch=scaled(5)),
        ]
    )


def run(made: Any, **feeds: Any) -> Any:
    return ReferenceEvaluator(made).run(None, feeds)[0]


def held(made: Any, value: int) -> Any:
    made.graph.initializer.append(numpy_helper.from_array(np.int64(value), "sr"))
    del made.graph.input[1]
    return made


@given(st.integers(0, 40))
def test_what_is_inlined_computes_the_same(rate: int) -> None:
    expected = run(by_rate(), x=X, sr=np.int64(rate))
    made, done = inline(held(by_rate(), rate))
    assert done == ["choose"]
    assert {node.op_type for node in made.graph.node} == {"Mul", "Identity"}
    assert len([t for t in made.graph.initializer if t.name.endswith("w")]) == 1, "the other branch's weights are gone"
    np.testing.assert_array_equal(run(made, x=X), expected)
    onnx.checker.check_model(made)


def test_branches_in_branches_and_sizes_decide_too() -> None:
    rank = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Size", ["shape"], ["rank"])]
    rank.append(helper.make_node("Equal", ["rank", "two"], ["is_two"]))
    rank.append(helper.make_node("If", ["is_two"], ["deep"], "rank", then_branch=scaled(3), else_branch=scaled(7)))
    inner = branch("outer", rank, "deep", [numpy_helper.from_array(np.int64(2), "two")])
    made, done = inline(held(by_rate(inner), 16))
    assert done == ["choose", "rank"]
    np.testing.assert_array_equal(run(made, x=X), X * 3)


@pytest.mark.parametrize(("batch", "left"), [(1, 0), ("n", 1)])
def test_a_size_that_is_open_decides_nothing(batch: object, left: int) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Equal", ["size", "one"], ["single"]),
        helper.make_node("If", ["single"], ["y"], "", then_branch=scaled(2), else_branch=scaled(5)),
    ]
    before = model(nodes, rate=False, batch=batch, constants=[numpy_helper.from_array(np.array([1]), "one")])
    made, done = inline(before)
    assert len(undecided(made)) == left
    assert bool(done) != bool(left)
    np.testing.assert_array_equal(run(made, x=X), X * 2)
    if left:
        assert made is before, "nothing is changed in vain"
        assert "--shape x=SIZES" in advice(made)[0]


def test_what_decides_is_named() -> None:
    assert undecided(by_rate()) == {"choose": ["sr"]}
    assert advice(by_rate()) == (
        "the branch 'choose' stays float: it is decided by sr, so hold it: --constant sr=VALUE",
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(by_rate(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.slow
def test_a_held_input_is_gone(file: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(file, constants={"sr": 16}))
    assert [t.name for t in source.inputs] == ["x"]
    np.testing.assert_array_equal(source.run({"x": X})["y"], X * 2)
    source.lower("onnx", tmp_path / "out.onnx")
    assert [v.name for v in onnx.load(tmp_path / "out.onnx").graph.input] == ["x"]
    assert "branches that are decided are replaced by what they run: choose" in source.notes


@pytest.mark.slow
def test_an_open_branch_is_noted(file: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(file))
    source.lower("onnx", tmp_path / "out.onnx")
    assert any("--constant sr=VALUE" in note for note in source.notes)


@pytest.mark.slow
def test_a_refusal_to_quantize_names_the_branch_and_the_way_out(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConversionError, match=r"no operator that.*; the branch 'choose' stays float.*--constant sr=VALUE"
    ):
        convert(file, tmp_path / "b", to="onnx", quantize="dynamic", shape={"x": (1, 3)})


@pytest.mark.slow
def test_constants_that_cannot_be_are_refused(file: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown name 'rate'"):
        open_source(SourceSpec(file, constants={"rate": 16}))
    with pytest.raises(UsageError, match="is data"):
        open_source(SourceSpec(file, constants={"x": 16}))
    with pytest.raises(UsageError, match=r"takes int, not 1\.5"):
        open_source(SourceSpec(file, constants={"sr": 1.5}))


def test_constants_are_numbers() -> None:
    texts = ("sr=16000", "a=b=-3", "gain=0.5", "flag=true", "flag=False")
    assert [parse_constant(text) for text in texts] == [
        ("sr", 16000), ("a=b", -3), ("gain", 0.5), ("flag", True), ("flag", False),
    ]  # fmt: skip
    assert isinstance(parse_constant("x=1")[1], int)
    for text in ("sr", "=3", "sr=", "sr=fast"):
        with pytest.raises(UsageError, match="is not NAME=NUMBER"):
            parse_constant(text)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"])
def test_the_speech_detector_becomes_int8_once_its_rate_is_held(zoo: Path, tmp_path: Path, name: str) -> None:
    path = next((zoo / "silero-vad").rglob(name))
    random = np.random.default_rng(0)
    samples = {"input": (12, 576), "state": (12, 2, 1, 128)}
    arrays = {key: (random.standard_normal(size) * 0.1).astype(np.float32) for key, size in samples.items()}
    np.savez(tmp_path / "speech.npz", **arrays)
    bundle = convert(
        path,
        tmp_path / "b",
        to="onnx",
        quantize="int8",
        calibrate=tmp_path / "speech.npz",
        shape={"input": (1, 576), "state": (2, 1, 128)},
        constant={"sr": 16000},
    )
    assert [t.name for t in bundle.manifest.inputs] == ["input", "state"]
    assert all(node.op_type != "If" for node in onnx.load(bundle.artifact).graph.node)
    assert bundle.manifest.verification["layers"]["int8"] >= 6
