"""Tensors in JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeferry_runtime.serving.datatypes import DTYPES
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.oip_json import read_json, write_json

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SPOKEN = [name for name in DTYPES if name != "FP16"]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=8,
)


def elements(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    """Values that JSON has a form for."""
    options = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return TEXTS if dtype.kind == "O" else hnp.from_dtype(dtype, **options)


@pytest.mark.parametrize("datatype", SPOKEN)
@settings(max_examples=30)
@given(data=st.data())
def test_what_was_written_is_read_flat_and_nested(datatype: str, data: st.DataObject) -> None:
    dtype = DTYPES[datatype]
    value = data.draw(hnp.arrays(dtype, SHAPES, elements=elements(dtype), fill=st.nothing()))
    sent = [orjson.dumps(write_json("x", value), option=orjson.OPT_SERIALIZE_NUMPY)]
    if value.ndim:
        sent.append(orjson.dumps(value.tolist()))
    for text in sent:
        found = read_json("x", dtype, value.shape, orjson.loads(text))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, value, strict=True)


@pytest.mark.parametrize("datatype", SPOKEN)
@settings(max_examples=30)
@given(shape=SHAPES, data=VALUES)
def test_any_json_is_read_or_refused(datatype: str, shape: tuple[int, ...], data: Any) -> None:
    try:
        found = read_json("x", DTYPES[datatype], shape, data)
    except RefusedError as error:
        assert error.kind is Kind.INVALID
    else:
        assert (found.dtype, found.shape) == (DTYPES[datatype], shape)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP16", (1,), [1.0], "is FP16, which JSON has no form for; send it by binary_data_size"),
        ("FP32", (1,), None, "has no array of data"),
        ("FP32", (), 1.0, "has no array of data"),
        ("FP32", (2,), [1.0], r"has 1 elements, and its shape \[2\] takes 2"),
        ("FP32", (1, 2), [[1.0], [2.0]], r"is nested otherwise than its shape \[1, 2\]"),
        ("FP32", (2, 1), [[1.0], 2.0], "is nested otherwise"),
        ("FP32", (2, 1), [[1.0], {"a": 2.0}], "is nested otherwise"),
        ("FP32", (1, 1), [[[1.0]]], "has elements that are no numbers"),
        ("FP32", (1,), [None], "has elements that are no numbers"),
        ("FP32", (2,), [1.0, True], "has elements that are no numbers"),
        ("FP32", (1,), [1e39], "has elements beyond FP32"),
        ("UINT8", (1,), [-1], "has elements beyond UINT8; send 0 to 255"),
        ("INT64", (1,), [1 << 63], "has elements beyond INT64"),
        ("INT8", (1,), [1.0], "has elements that are no whole numbers"),
        ("BOOL", (1,), [1], "has elements that are no true or false"),
        ("BYTES", (1,), [1], "has elements that are no texts"),
    ],
)
def test_data_that_is_no_such_tensor_is_refused(datatype: str, shape: tuple[int, ...], data: Any, said: str) -> None:
    with pytest.raises(RefusedError, match=f"tensor 'x'.*{said}"):
        read_json("x", DTYPES[datatype], shape, data)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(1, np.float16), "is FP16, which JSON has no form for; ask for it with binary_data"),
        (np.array([b"\xff"], object), "holds bytes that are no text"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: Any, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        write_json("x", value)


def test_not_a_number_is_null() -> None:
    value = write_json("x", np.array([np.nan, np.inf, 1], np.float32))
    assert orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) == b"[null,null,1.0]"
