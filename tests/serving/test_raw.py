"""Tensors as bytes in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeferry_runtime.serving.datatypes import DTYPES
from edgeferry_runtime.serving.raw import read_raw, write_raw
from edgeferry_runtime.serving.refusals import Kind, RefusedError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def tensors(datatype: str) -> st.SearchStrategy[Any]:
    """Arrays of a datatype, with every value that it has."""
    dtype = DTYPES[datatype]
    return hnp.arrays(dtype, SHAPES, elements=TEXTS if dtype.kind == "O" else None, fill=st.nothing())


def read(datatype: str, shape: tuple[int, ...], data: bytes) -> Any:
    return read_raw("x", DTYPES[datatype], shape, memoryview(data))


@pytest.mark.parametrize("datatype", DTYPES)
@settings(max_examples=30)
@given(data=st.data())
def test_what_was_written_is_read(datatype: str, data: st.DataObject) -> None:
    value = data.draw(tensors(datatype))
    found = read(datatype, value.shape, bytes(write_raw(value)))
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert bytes(write_raw(found)) == bytes(write_raw(value))
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("datatype", DTYPES)
@settings(max_examples=30)
@given(data=st.binary(max_size=40), shape=SHAPES)
def test_any_bytes_are_read_or_refused(datatype: str, data: bytes, shape: tuple[int, ...]) -> None:
    try:
        value = read(datatype, shape, data)
    except RefusedError as error:
        assert error.kind is Kind.INVALID
    else:
        assert bytes(write_raw(value)) == data


def test_bytes_lie_in_the_order_of_the_protocol() -> None:
    assert bytes(write_raw(np.array([[1, 2], [-1, 256]], np.int16).T)) == b"\1\0\xff\xff\2\0\0\1"
    assert bytes(write_raw(np.array(["é", b"\xff"], object))) == b"\2\0\0\0\xc3\xa9\1\0\0\0\xff"
    assert read("FP32", (1,), b"\0\0\x80\x3f") == 1.0


def test_a_tensor_is_a_view_where_it_lies_well_and_a_copy_where_not() -> None:
    data = np.arange(9, dtype=np.float32).view(np.uint8).data
    assert np.shares_memory(read_raw("x", DTYPES["FP32"], (8,), data[4:]), data)
    moved = read_raw("x", DTYPES["FP32"], (8,), data[1:33])
    assert moved.flags.aligned
    assert not np.shares_memory(moved, data)


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("FP32", b"\0" * 7, r"has 7 bytes, and its shape \[2\] of float32 takes 8"),
        ("FP32", b"\0" * 9, "has 9 bytes"),
        ("BOOL", b"\1\2", "holds a BOOL that is neither 0 nor 1"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0", "has 9 bytes, which are not the lengths and bytes of 2 elements"),
        ("BYTES", b"\1\0\0\0a\1\0", "has 7 bytes, which"),
        ("BYTES", b"\0\0\0\0" * 3, "has 12 bytes, which"),
        ("BYTES", b"\xff\xff\xff\xff\0\0\0\0", "has 8 bytes, which"),
        ("BYTES", b"\1\0\0\0\xff\0\0\0\0", "holds an element that is no UTF-8"),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(datatype: str, data: bytes, said: str) -> None:
    with pytest.raises(RefusedError, match=f"tensor 'x'.*{said}"):
        read(datatype, (2,), data)


def test_a_shape_that_promises_more_than_there_is_costs_nothing() -> None:
    with pytest.raises(RefusedError, match="has 4 bytes"):
        read("BYTES", (1 << 60,), b"\0\0\0\0")
