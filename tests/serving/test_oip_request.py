"""Bodies of requests, read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.serving.oip_parameters import Wanted
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.oip_request import Asked, read_request

PAIR = np.array([[1, -2]], np.int16)
INPUT = {"name": "x", "shape": [1, 2], "datatype": "INT16"}
FLAT = {**INPUT, "data": [1, -2]}
BINARY = {**INPUT, "parameters": {"binary_data_size": 4}}


def read(request: Any, binary: bytes = b"", length: str | None = None) -> Asked:
    text = json.dumps(request).encode()
    return read_request(text + binary, length or (str(len(text)) if binary else None), lambda *tensor: None)


def test_json_and_bytes_are_the_same_request() -> None:
    for asked in (read({"inputs": [FLAT]}), read({"inputs": [BINARY]}, PAIR.tobytes())):
        np.testing.assert_array_equal(asked.feeds["x"], PAIR, strict=True)
        assert (asked.id, asked.outputs, asked.default, asked.timeout_s) == (None, None, Wanted(), None)


def test_several_inputs_share_the_bytes_in_their_order() -> None:
    truth = {"name": "t", "shape": [1], "datatype": "BOOL", "parameters": {"binary_data_size": 1}}
    text = {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    found = read({"inputs": [truth, {**FLAT, "name": "flat"}, text, BINARY]}, b"\1\2\0\0\0ab" + PAIR.tobytes()).feeds
    assert list(found) == ["t", "flat", "s", "x"]
    assert (found["t"].tolist(), found["s"].tolist()) == ([True], ["ab"])
    np.testing.assert_array_equal(found["x"], PAIR)


def test_outputs_are_wanted_as_they_say_and_else_as_the_request_says() -> None:
    outputs = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": False, "stored": False, "classification": 3}},
        {"name": "c", "parameters": {"stored": True, "our_own": {"deep": 1}}},
    ]
    parameters = {"binary_data_output": True, "stored": True, "timeout": 250_000, "priority": 1, "my": "own"}
    asked = read({"id": "é", "inputs": [FLAT], "outputs": outputs, "parameters": parameters, "more": [{}]})
    assert asked.outputs == {"a": Wanted(True, True), "b": Wanted(False, False, 3), "c": Wanted(True, True)}
    assert (asked.id, asked.timeout_s) == ("é", 0.25)


def test_every_tensor_is_checked_before_it_is_made() -> None:
    seen: list[Any] = []

    def check(*tensor: Any) -> None:
        seen.append(tensor)
        raise RefusedError(Kind.TOO_LARGE, "tensor", "is large", "send less")

    body = json.dumps({"inputs": [{**FLAT, "shape": [1 << 40]}]}).encode()
    with pytest.raises(RefusedError, match="is large"):
        read_request(body, None, check)
    assert seen == [("x", (1 << 40,), np.dtype(np.int16))]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ([], "the request.*is no JSON object"),
        ({"id": 1}, "has '1' for 'id'; give a text"),
        ({"inputs": {}}, "has '{}' for 'inputs'; give an array"),
        ({"inputs": [1]}, "an input.*has no name"),
        ({"inputs": [{}]}, "an input.*has no name"),
        ({"inputs": [{"name": 1}]}, "an input.*has '1' for 'name'; give a text"),
        ({"inputs": [{"name": "x", "datatype": "FP32"}]}, "input 'x'.*has no shape"),
        ({"inputs": [{**FLAT, "shape": [1, 2.0]}]}, "input 'x'.*has no shape"),
        ({"inputs": [{**FLAT, "shape": [True, 2]}]}, "input 'x'.*has no shape"),
        ({"inputs": [{**FLAT, "datatype": None}]}, "datatype.*unknown.*valid are BOOL, UINT8"),
        ({"inputs": [{**FLAT, "datatype": "INT4"}]}, "datatype.*INT4.*did you mean"),
        ({"inputs": [{**FLAT, "parameters": []}]}, "input 'x'.*has .* for 'parameters'; give an object"),
        ({"inputs": [{**FLAT, "parameters": {"binary_data_size": 4}}]}, "has both data and binary_data_size"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": -4}}]}, "has -4 for 'binary_data_size'"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 4.0}}]}, "has '4.0' for 'binary_data_size'"),
        ({"inputs": [{**INPUT, "parameters": {"shared_memory_region": "r"}}]}, "shared memory, which is not offered"),
        ({"inputs": [INPUT]}, "tensor 'x'.*has no array of data"),
        ({"inputs": [BINARY]}, "has 0 bytes behind its JSON, and its inputs' binary_data_size say 4"),
        ({"inputs": [FLAT, FLAT]}, "names an input twice"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "names an output twice"),
        ({"outputs": ["y"]}, "an output.*has no name"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "output 'y'.*has '1' for 'binary_data'"),
        ({"outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "output 'y'.*has -1 for"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "output 'y'.*shared memory"),
        ({"parameters": {"stored": "yes"}}, "has 'yes' for 'stored'; give true or false"),
        ({"parameters": {"timeout": 0.5}}, "has '0.5' for 'timeout'; give a whole number"),
        ({"parameters": {"sequence_id": 7}}, "is one of a sequence; send each request on its own"),
    ],
)
def test_what_is_no_request_is_refused(request_: Any, said: str) -> None:
    with pytest.raises((RefusedError, UnknownNameError), match=said):
        read(request_)


@pytest.mark.parametrize(
    ("binary", "length", "said"),
    [
        (b"\0" * 4, "x", "has 'x' for Inference-Header-Content-Length; give the number of bytes"),
        (b"\0" * 4, "-1", "has '-1' for"),
        (b"\0" * 4, "\N{SUPERSCRIPT TWO}", "for Inference-Header"),
        (b"\0" * 4, "9" * 30, "for Inference-Header"),
        (b"\0" * 4, "9999", "its JSON alone has 9999 of them"),
        (b"\0" * 4, "10", "is no JSON .*line 1, column"),
        (b"\0" * 3, None, "has 3 bytes behind its JSON, and its inputs' binary_data_size say 4"),
        (b"\0" * 5, None, "has 5 bytes behind its JSON"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(binary: bytes, length: str | None, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        read({"inputs": [BINARY]}, binary, length)


@given(data=st.data())
def test_a_body_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    text = json.dumps({"inputs": [BINARY, {**FLAT, "name": "f"}], "outputs": [{"name": "y"}]}).encode()
    body = bytearray(text + PAIR.tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    length = data.draw(st.sampled_from([str(len(text)), None]) | st.integers(0, 400).map(str))
    try:
        asked = read_request(bytes(body), length, lambda *tensor: None)
    except (RefusedError, UnknownNameError):
        return
    assert all(isinstance(value, np.ndarray) for value in asked.feeds.values())
