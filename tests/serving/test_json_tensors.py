"""Tensors in JSON: nested lists of numbers, texts and base64, both ways."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.json_tensors import columns, read_json, rows, tensor, written
from edgeferry_runtime.tensors import Array, Quantization, TensorSpec

REAL = TensorSpec("x", (-1, 2), "float32")
WORDS = TensorSpec("words", (-1,), "object")
QUANTIZED = TensorSpec("x", (-1, 2), "int8", Quantization((0.5,), (3,)))

NUMBERS = arrays.arrays(
    st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "?"]).map(np.dtype),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


def through_json(value: Any) -> Any:
    """What a client reads, whose parser knows the tokens, as Python's does."""
    return json.loads(bytes(json_answer(value).body))


@given(NUMBERS)
def test_numbers_come_back_as_they_went(value: Array) -> None:
    spec = TensorSpec("x", value.shape, value.dtype.name)
    found = tensor(spec, through_json(written("x", value)))
    if value.size:
        assert found.shape == value.shape
        assert found.dtype.kind in "biuf"
        np.testing.assert_array_equal(found.astype(value.dtype), value)


def test_whole_numbers_on_both_sides_of_2_to_the_63_stay_what_they_are() -> None:
    spec = TensorSpec("x", (-1,), "uint64")
    assert tensor(spec, [(1 << 63) + 1, 0]).tolist() == [(1 << 63) + 1, 0]
    assert tensor(spec, [(1 << 63) + 1, 0.5]).dtype == np.float64
    assert tensor(spec, [1 << 63, -1]).dtype == np.float64


@settings(max_examples=50)
@given(st.data())
def test_rows_are_columns_turned(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    shapes = data.draw(st.lists(arrays.array_shapes(min_dims=0, max_dims=2, max_side=3), min_size=1, max_size=3))
    values = [data.draw(arrays.arrays(np.float32, (count, *shape))) for shape in shapes]
    outputs = {f"y{i}": value for i, value in enumerate(values)}
    by_row, by_column = through_json(rows(outputs)), through_json(columns(outputs))
    if len(outputs) == 1:
        assert repr(by_row) == repr(by_column)
    else:
        assert repr({name: [row[name] for row in by_row] for name in outputs}) == repr(by_column)


def test_a_value_is_written_with_the_digits_that_tell_it_apart() -> None:
    assert bytes(json_answer(written("y", np.array([0.1, 1], np.float32))).body) == b"[0.1,1.0]"


def test_what_json_lacks_is_written_as_the_tokens_that_tensorflow_names() -> None:
    assert bytes(json_answer(written("y", np.array([np.nan, np.inf, -np.inf, 1]))).body) == (
        b"[NaN,Infinity,-Infinity,1.0]"
    )


def test_the_tokens_are_read() -> None:
    nan, up, down = read_json(b'{"x": [NaN, Infinity, -Infinity]}')["x"]
    assert np.isnan(nan)
    assert (up, down) == (np.inf, -np.inf)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[1e999]",
        b"[NaN, 1e999]",
        b"[NaN, " + b"9" * 5000 + b"]",
        b"[" * 2000 + b"]" * 2000,
        b"[" * 200_000 + b"NaN" + b"]" * 200_000,
    ],
    ids=["empty", "cut", "binary", "large", "large among tokens", "long", "deep", "deep with tokens"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError, match="the body: is no JSON") as refused:
        read_json(body)
    assert refused.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (REAL, [[1, 2], [3]], "input x: is a ragged list"),
        (REAL, [[1, "2"]], "input x: holds something else than numbers"),
        (REAL, [[1, None]], "input x: holds something else than numbers"),
        (REAL, {"x": 1}, "input x: holds something else than numbers"),
        (REAL, [[1, 1 << 80]], "input x: holds something else than numbers"),
        (QUANTIZED, [[1, 128]], "input x: holds something else than stored integers of int8; give -128 to 127"),
        (QUANTIZED, [[1, 0.5]], "input x: holds something else than stored integers"),
        (WORDS, read_json(b"[" * 900 + b"]" * 900), "input words: is nested deeper than 32 lists"),
        (WORDS, ["a", 1], "input words: holds something else than texts"),
        (WORDS, [["a"], ["b", "c"]], "input words: holds something else than texts"),
    ],
)
def test_what_does_not_fit_is_named(spec: TensorSpec, value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        tensor(spec, value, stored=True)


def test_a_quantized_inputs_numbers_are_real_unless_stored_ones_are_meant() -> None:
    assert tensor(QUANTIZED, [[1, 2]]).dtype == np.float64
    assert tensor(QUANTIZED, [[1, 2]], stored=True).dtype == np.int8


@settings(max_examples=50)
@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1))
def test_texts_come_back_as_they_went(texts: list[str | bytes]) -> None:
    value = np.array([*texts, None], dtype=object)[:-1]
    expected = [text if isinstance(text, str) else _as_text(text) for text in texts]
    for name in ("words", "image_bytes"):
        sent = orjson.loads(orjson.dumps(written(name, value)))
        assert tensor(WORDS, sent).tolist() == expected
    assert all(isinstance(element, dict) for element in sent)


def _as_text(held: bytes) -> str | bytes:
    try:
        return held.decode()
    except UnicodeDecodeError:
        return held


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(RefusedError, match="a base64 text: cannot be decoded"):
        tensor(WORDS, [{"b64": "?"}])
    assert tensor(WORDS, [{"b64": base64.b64encode(b"\xff\xd8").decode()}]).tolist() == [b"\xff\xd8"]


def test_outputs_without_common_rows_are_asked_for_in_columns() -> None:
    with pytest.raises(RefusedError, match=r"no common number of rows \(y 2, total has none\); ask in column format"):
        rows({"y": np.zeros((2, 3)), "total": np.zeros(())})


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(RefusedError, match="output y: holds complex numbers"):
        columns({"y": np.zeros(2, np.complex64)})
