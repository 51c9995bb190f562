"""The walk over ONNX's wire format."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.onnx_wire import DEPTH, walk_onnx
from edgeferry_runtime.protobuf import WireError


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    assert number < 16
    length, size = b"", len(content)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_a_sound_model_has_a_graph(tiny) -> None:
    assert walk_onnx(tiny.onnx_pair()).graphs == 1
    assert walk_onnx(tiny.onnx_dense(8, 2)).external == []


def test_external_data_is_found(tiny) -> None:
    entries = walk_onnx(tiny.onnx_external("weights.bin", 4, 16)).external
    assert entries == [{"location": "weights.bin", "offset": "4", "length": "16"}]


def test_external_data_is_found_in_a_subgraph_of_an_attribute() -> None:
    tensor = field(13, field(1, b"location") + field(2, b"../secret"))
    inner = field(5, tensor)
    model = field(7, field(1, field(5, field(6, inner))))
    found = walk_onnx(model)
    assert found.external == [{"location": "../secret"}]
    assert found.graphs == 2


def test_a_model_cut_anywhere_has_no_graph_or_is_refused(tiny) -> None:
    data = tiny.onnx_pair()
    graph_ends = data.rindex(b"gap") + 3
    for length in range(1, graph_ends):
        try:
            assert walk_onnx(data[:length]).graphs == 0
        except WireError:
            continue


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x05abc", b"\x08" + b"\xff" * 11, b"\x00\x00", b"\x0b", b"\x38\x01", b"\x0d\x00", b"\x09\x00"],
    ids=["no length", "short", "endless number", "field 0", "group", "graph as number", "fixed32", "fixed64"],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        walk_onnx(data)


def test_graphs_nested_without_end_are_refused() -> None:
    graph = b""
    for _ in range(DEPTH):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(WireError, match="nest deeper"):
        walk_onnx(field(7, graph))


@given(st.binary(max_size=200))
def test_any_bytes_are_walked_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        walk_onnx(data)
