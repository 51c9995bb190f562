"""Lists of values: what a list held is what the array holds, and nothing wraps around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rpc.values import from_list, to_list

NUMBERS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


@given(st.sampled_from(NUMBERS).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_side=0))))
def test_numbers_come_back(value: np.ndarray[Any, Any]) -> None:
    found = from_list("x", to_list(value), value.dtype)
    np.testing.assert_array_equal(found.reshape(value.shape), value, strict=True)


@given(st.lists(st.text()))
def test_texts_come_back(texts: list[str]) -> None:
    found = from_list("x", [text.encode() for text in texts], np.dtype(object))
    assert found.tolist() == texts
    assert to_list(found) == [text.encode() for text in texts]


@given(st.sampled_from(["i1", "i2", "u1", "u2"]), st.lists(st.integers(-(2**31), 2**32 - 1), min_size=1))
def test_what_is_out_of_range_is_refused(dtype: str, values: list[int]) -> None:
    limits = np.iinfo(dtype)
    if all(limits.min <= value <= limits.max for value in values):
        assert from_list("x", values, np.dtype(dtype)).tolist() == values
        return
    with pytest.raises(RefusedError, match=f"send {limits.min} to {limits.max}") as refused:
        from_list("x", values, np.dtype(dtype))
    assert refused.value.kind is Kind.INVALID


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(RefusedError, match="no UTF-8"):
        from_list("x", [b"\xff"], np.dtype(object))
