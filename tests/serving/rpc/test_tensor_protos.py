"""TensorProto: every form that TensorFlow writes is read, and what is written is read the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.tensor_protos import TYPES, number_of, read_tensor, write_tensor

Array = np.ndarray[Any, Any]
NUMERIC = [dtype for _, dtype, _ in TYPES.values() if dtype.kind != "O"]
VALUES = st.sampled_from(NUMERIC).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0)))


def read(tensor: Any) -> Array:
    return read_tensor("x", tensor, lambda *_: None)


def tensor(dtype: int, shape: tuple[int, ...] = (), **fields: Any) -> Any:
    made = message("tensorflow.TensorProto")(dtype=dtype, **fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


@given(VALUES)
def test_what_is_written_is_read(value: Array) -> None:
    made = message("tensorflow.TensorProto")()
    write_tensor(value, made)
    np.testing.assert_array_equal(read(made), value, strict=True)


@given(VALUES)
def test_values_are_read_as_content_is(value: Array) -> None:
    number = number_of(value.dtype)
    flat = value.ravel().view(np.uint16) if value.dtype == np.float16 else value.ravel()
    made = tensor(number, value.shape, **{TYPES[number][2]: flat.tolist()})
    np.testing.assert_array_equal(read(made), value, strict=True)


@given(st.lists(st.text(), min_size=1))
def test_texts_come_back(texts: list[str]) -> None:
    value = np.array(texts, object)
    made = message("tensorflow.TensorProto")()
    write_tensor(value, made)
    assert read(made).tolist() == texts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tensor(1, (2, 2), float_val=[1.5]), [[1.5, 1.5], [1.5, 1.5]]),
        (tensor(3, (4,), int_val=[1, 2]), [1, 2, 2, 2]),
        (tensor(6, (2,)), [0, 0]),
        (tensor(7, (2,), string_val=[b"a"]), ["a", "a"]),
        (tensor(7, (1,)), [""]),
        (tensor(19, (3,), half_val=[0x3C00]), [1.0, 1.0, 1.0]),
        (tensor(1, (0,)), []),
    ],
)
def test_the_last_value_stands_for_those_that_are_missing(given: Any, expected: Any) -> None:
    assert read(given).tolist() == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (tensor(0), "has the dtype 0, which is none that models take; send one of: DT_FLOAT"),
        (tensor(8), "has the dtype 8"),
        (tensor(1, (2,), float_val=[1, 2, 3]), r"has 3 values, and its shape \[2\] takes 2"),
        (tensor(1, (2,), tensor_content=b"1234567"), "has 7 bytes"),
        (tensor(7, (1,), tensor_content=b"\1a"), "send them as string_val"),
        (tensor(6, (1,), int_val=[128]), "send -128 to 127"),
        (tensor(19, (1,), half_val=[-1]), "send 0 to 65535"),
        (tensor(10, (1,), tensor_content=b"\2"), "neither 0 nor 1"),
        (tensor(1, tensor_shape={"unknown_rank": True}), "has no shape"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as refused:
        read(given)
    assert refused.value.kind is Kind.INVALID


def test_a_shape_is_checked_before_there_is_memory_for_it(server: Any) -> None:
    with pytest.raises(RefusedError, match="bytes, and 67108864 are allowed") as refused:
        read_tensor("x", tensor(1, (1 << 20, 1 << 20), float_val=[1]), server.service.check_tensor)
    assert refused.value.kind is Kind.TOO_LARGE
    with pytest.raises(RefusedError, match="send real sizes"):
        read_tensor("x", tensor(1, (-1, 8)), server.service.check_tensor)
