"""Answers, written: what no small model gives."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.responses import Response

from edgeferry_runtime.serving.oip_parameters import Wanted
from edgeferry_runtime.serving.refusals import RefusedError
from edgeferry_runtime.serving.rest.oip_answer import write_answer
from edgeferry_runtime.serving.rest.oip_request import HEAD_LENGTH


def written(value: np.ndarray[Any, Any], wanted: Wanted) -> Response:
    release: Any = SimpleNamespace(name="m", version=3, labels=())
    answer: Any = SimpleNamespace(release=release, outputs={"y": value})
    return write_answer(answer, {"y": wanted}, None)


def test_half_precision_and_text_travel_as_bytes() -> None:
    for value, datatype, data in (
        (np.array([[1.5, -2]], np.float16), "FP16", b"\x00\x3e\x00\xc0"),
        (np.array([["é", ""]], object), "BYTES", b"\2\0\0\0\xc3\xa9\0\0\0\0"),
    ):
        response = written(value, Wanted(binary=True))
        length = int(response.headers[HEAD_LENGTH])
        (said,) = json.loads(bytes(response.body)[:length])["outputs"]
        size = {"binary_data_size": len(data)}
        assert said == {"name": "y", "datatype": datatype, "shape": [1, 2], "parameters": size}
        assert bytes(response.body)[length:] == data


def test_text_travels_in_json() -> None:
    said = json.loads(bytes(written(np.array(["é", b"a"], object), Wanted()).body))
    assert said["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [2], "data": ["é", "a"]}]
    assert said["model_version"] == "3"


def test_outputs_that_lie_otherwise_in_memory_are_put_in_a_row() -> None:
    value = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert bytes(written(value, Wanted(binary=True)).body).endswith(np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes())
    assert json.loads(bytes(written(value, Wanted()).body))["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("binary", [False, True])
def test_a_dtype_without_a_name_is_refused(binary: bool) -> None:
    with pytest.raises(RefusedError, match=r"output 'y'.*holds complex64, which the protocol has no name for"):
        written(np.zeros(1, np.complex64), Wanted(binary))
