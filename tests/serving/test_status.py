"""``GET /status``: every version of every model, and how long its latest requests took."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from edgeferry_runtime.serving.service import Call


def status(server: Any) -> dict[str, Any]:
    answer = requests.get(f"{server.http}/status", timeout=60)
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_a_model_is_described(server: Any) -> None:
    told = status(server)
    assert told["ready"] is True
    assert [model["name"] for model in told["models"]] == ["digits", "float", "onnx"]
    digits = told["models"][0]
    assert (digits["version"], digits["state"], digits["default"]) == ("1", "READY", True)
    assert (digits["format"], digits["precision"]) == ("tflite", "int8")
    (image,) = digits["inputs"]
    assert image == {"name": "image", "datatype": "FP32", "stored": "INT8", "shape": [1, 1, 8, 8]}
    assert [output["name"] for output in digits["outputs"]] == ["digit", "features"]
    assert (digits["classifies"], digits["doubt"]) == (False, "does not say how a picture becomes its input")


def test_requests_are_counted_whichever_way_they_come(
    serve: Callable[..., AbstractContextManager[Any]],
    naming: Path,
    pictures: np.ndarray[Any, Any],
    png: Callable[[int], bytes],
) -> None:
    with serve(digits=naming) as server:
        (before,) = status(server)["models"]
        assert before["latency"] == {"requests": 0, "p50_ms": None, "p99_ms": None}
        answers = [server.do(server.service.infer(Call("digits", {"image": pictures[:1]}))) for _ in range(3)]
        named = requests.post(f"{server.http}/predict", files={"image": png(0)}, timeout=60).json()
        latency = status(server)["models"][0]["latency"]
        taken = sorted([one.queue_ms + one.compute_ms for one in answers] + [sum(named["ms"].values())])
        assert latency["requests"] == 4
        assert [latency["p50_ms"], latency["p99_ms"]] == pytest.approx([taken[1], taken[3]], abs=0.002)


def test_a_model_that_was_let_go_is_listed_without_its_insides(
    serve: Callable[..., AbstractContextManager[Any]], naming: Path
) -> None:
    with serve(digits=naming) as server:
        server.do(server.service.repository.unload("digits"))
        told = status(server)
        (digits,) = told["models"]
        assert digits["state"] == "UNAVAILABLE"
        assert digits["reason"] and set(digits) == {"name", "version", "state", "reason", "release"}
        answer = requests.post(f"{server.http}/predict", files={"image": b"x"}, timeout=60)
        assert (answer.status_code, "names pictures" in answer.json()["error"]) == (404, True)
