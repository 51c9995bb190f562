"""ONNX files beyond what one can hold: read without their weights, written with a data file, and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import onnx_file

onnx = pytest.importorskip("onnx")

WEIGHTS = {name: np.random.default_rng(i).standard_normal((32, 32)).astype(np.float32) for i, name in enumerate("abc")}
AXES = np.array([1], np.int64)
BYTES = 3 * 4096
"""What the weights take."""


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one file hold no more than two of the weights."""
    monkeypatch.setattr(onnx_file, "LARGEST", 10_000)


def model(extra: Any = ()) -> Any:
    """Return z = unsqueeze(a + b + c), whose axes are a weight of 8 bytes."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "c"], ["abc"]),
        helper.make_node("Unsqueeze", ["abc", "axes"], ["z"]),
        *extra,
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in [*WEIGHTS.items(), ("axes", AXES)]]
    graph = helper.make_graph(
        nodes, "sum", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [32, 1, 32])], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def saved(folder: Path, **options: Any) -> Path:
    """Save the model as others do: every weight, axes too, in a file beside it."""
    folder.mkdir()
    options = {"location": "w.bin", "size_threshold": 0, **options}
    onnx.save_model(model(), str(folder / "m.onnx"), save_as_external_data=True, **options)
    return folder / "m.onnx"


def arrays(path: Path) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize("one_file", [True, False])
def test_large_weights_stay_outside(tmp_path: Path, one_file: bool) -> None:
    path = saved(tmp_path / "in", all_tensors_to_one_file=one_file)
    read = onnx_file.read(path)
    assert onnx_file.is_split(read)
    assert onnx_file.size(read) >= BYTES > len(read.SerializeToString())
    outside = [t.name for t in onnx_file.tensors(read) if onnx_file.is_outside(t)]
    assert outside == ["a", "b", "c"]  # the axes, which shape inference needs, are inside
    for tensor in read.graph.initializer[:3]:
        np.testing.assert_array_equal(onnx_file.values(tensor), WEIGHTS[tensor.name])
        assert not tensor.raw_data
    assert [
        d.dim_value for d in onnx.shape_inference.infer_shapes(read).graph.value_info[-1].type.tensor_type.shape.dim
    ]


def test_what_fits_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "in")
    monkeypatch.setattr(onnx_file, "LARGEST", BYTES + 1000)
    read = onnx_file.read(path)
    assert not onnx_file.is_split(read)
    onnx_file.write(read, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["out.onnx"]
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["c"], WEIGHTS["c"])


def test_what_came_to_fit_is_gathered_when_it_is_written(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    read = onnx_file.read(path)
    del read.graph.initializer[2]
    onnx_file.write(read, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["b"], WEIGHTS["b"])


def test_large_weights_are_written_beside(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    for name in ("out.onnx", "again.onnx"):
        onnx_file.write(onnx_file.read(path), tmp_path / name)
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    written = onnx.load(str(tmp_path / "out.onnx"), load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in written.graph.initializer]
    assert [p.get("location") for p in places] == [*["out.onnx.data"] * 3, None]
    assert [int(p["offset"]) % onnx_file.ALIGNMENT for p in places[:3]] == [0, 0, 0]
    for name, values in arrays(tmp_path / "out.onnx").items():
        np.testing.assert_array_equal(values, {**WEIGHTS, "axes": AXES}[name])
    assert (tmp_path / "out.onnx.data").read_bytes() == (tmp_path / "again.onnx.data").read_bytes()


def test_weights_that_were_added_move_too(tmp_path: Path) -> None:
    """In every form that protobuf keeps values in; texts, which have no bytes of their own, stay."""
    from onnx import TensorProto, helper

    made = model()
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [500], list(range(500)))
    words = helper.make_tensor("words", TensorProto.STRING, [200], [b"abcdefgh"] * 200)
    nibbles = helper.make_tensor("nibbles", TensorProto.INT4, [2401], bytes(1201), raw=True)
    made.graph.initializer.extend([floats, words, nibbles])
    onnx_file.write(made, tmp_path / "out.onnx")
    read = {t.name: t for t in onnx_file.read(tmp_path / "out.onnx").graph.initializer}
    assert {name for name, t in read.items() if onnx_file.is_outside(t)} == {*"abc", "floats", "nibbles"}
    assert onnx_file.values(read["floats"]).tolist() == list(range(500))
    assert onnx_file.values(read["nibbles"]).shape == (2401,)
    assert len(read["words"].string_data) == 200


def test_shared_bytes_stay_shared(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    read = onnx_file.read(path)
    for tensor in read.graph.initializer[1:3]:
        del tensor.external_data[:]
        tensor.external_data.extend(read.graph.initializer[0].external_data)
    onnx_file.write(read, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 4096
    np.testing.assert_array_equal(arrays(tmp_path / "out.onnx")["c"], WEIGHTS["a"])


def test_weights_inside_nodes_count(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHTS["a"], "k"))
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("k", 1, None)])
    branch = helper.make_node("If", ["on"], ["y"], then_branch=body, else_branch=body)
    made = model([branch])
    assert len(list(onnx_file.tensors(made))) == 6
    onnx_file.write(made, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 2500


def test_a_length_that_is_not_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    read = onnx_file.read(path)
    for tensor in read.graph.initializer[:3]:
        kept = [entry for entry in tensor.external_data if entry.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    assert onnx_file.size(read) >= BYTES
    np.testing.assert_array_equal(onnx_file.values(read.graph.initializer[2]), WEIGHTS["c"])


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    read = onnx_file.read(path)
    with (path.parent / "w.bin").open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(ValueError, match=r"w\.bin ends 3192 bytes too early"):
        onnx_file.write(read, tmp_path / "out.onnx")
    with pytest.raises(ValueError, match="greater than file size"):
        onnx_file.values(read.graph.initializer[1])


def test_a_graph_is_written_into_the_folder_of_its_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    read = onnx_file.read(path)
    read.graph.name = "another"
    onnx_file.write_graph(read, path.parent / "other.onnx")
    np.testing.assert_array_equal(arrays(path.parent / "other.onnx")["c"], WEIGHTS["c"])
    np.testing.assert_array_equal(onnx_file.values(read.graph.initializer[2]), WEIGHTS["c"])
