"""Names that tf2onnx numbers anew in each process come out the same."""

from __future__ import annotations

import random

import pytest

from edgeferry_converter.sources.onnx_names import canonical

onnx = pytest.importorskip("onnx")


def graph(numbers: list[int], shift: str) -> object:
    """x -> Reshape -> Add -> y, as tf2onnx would name it: numbers at the ends, weights in any order."""
    helper = onnx.helper
    a, b, c, d = numbers
    shape, bias = f"shape__{a}", f"{shift}__{b}"
    nodes = [
        helper.make_node("Reshape", ["x__1", shape], [f"r__{c}:0"], f"net/r__{c}"),
        helper.make_node("Add", [f"r__{c}:0", bias], [f"net/sum__{d}__{a}:0"], f"net/sum__{d}__{a}"),
        helper.make_node("Mul", [f"net/sum__{d}__{a}:0", "kept"], ["y"], "net/kept"),
    ]
    values = [helper.make_tensor_value_info(n, 1, (2, 2)) for n in ("x__1", "y")]
    weights = [
        onnx.numpy_helper.from_array(onnx.numpy_helper.np.array([2, 2]), shape),
        onnx.numpy_helper.from_array(onnx.numpy_helper.np.float32([1]), bias),
        onnx.numpy_helper.from_array(onnx.numpy_helper.np.float32([3]), "kept"),
    ]
    random.Random(a).shuffle(weights)
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights))


def test_numbers_and_order_depend_on_the_graph_alone() -> None:
    one = canonical(graph([7, 12, 140, 3], "const_starts"))
    two = canonical(graph([901, 2, 31, 77], "const_axes"))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)
    onnx.checker.check_model(one)
    assert [v.name for v in (*one.graph.input, *one.graph.output)] == ["x__1", "y"]
    assert "kept" in [t.name for t in one.graph.initializer]
    assert [node.name for node in one.graph.node] == ["net/r__0", "net/sum__0", "net/kept"]


def test_it_changes_nothing_the_second_time() -> None:
    once = canonical(graph([7, 12, 140, 3], "a")).SerializeToString(deterministic=True)
    assert canonical(onnx.ModelProto.FromString(once)).SerializeToString(deterministic=True) == once
