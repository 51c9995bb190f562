"""What nobody should send, sent over real HTTP: made from our own OpenAPI, and damaged copies of what is right.

``EDGEFERRY_FUZZ=1000`` makes as many requests of each kind, others every time; without it they are few and the same.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks as conformance

from edgeferry_runtime.serving.settings import Limits

MANY = os.environ.get("EDGEFERRY_FUZZ")
SOME = settings(
    max_examples=int(MANY or 30),
    derandomize=MANY is None,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_headers_conformance,
    conformance.response_schema_conformance,
]
ROOT = Path(__file__).parents[2]
PRIVATE = ("Traceback", 'File "', "site-packages", " object at 0x", str(ROOT), sys.prefix, "pytest-of", "/tmp/")
"""What never leaves the process."""
REASONED = (503, 504)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def honest(status: int, content_type: str, text: str) -> None:
    """Check what every answer owes, whoever made it: our own code, the framework, or the listener."""
    assert not [word for word in PRIVATE if word in text], text
    assert status < 500 or status in REASONED, (status, text)
    if status >= 400:
        assert content_type == "application/json", (content_type, text)
        error = json.loads(text)["error"]
        assert isinstance(error, str) and error


@dataclass(frozen=True)
class Right:
    """A request that is answered with 200."""

    path: str
    body: bytes
    kind: str = "application/json"

    @property
    def whole(self) -> bytes:
        """All bytes of it, as they go over the wire."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\nContent-Type: {self.kind}\r\nContent-Length: {len(self.body)}"
        return head.encode() + b"\r\nConnection: close\r\n\r\n" + self.body


@pytest.fixture(scope="module")
def rights(pictures: np.ndarray[Any, Any], png: Callable[[int], bytes]) -> list[Right]:
    """One of each protocol."""
    rows = pictures[:1].tolist()
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32"}
    as_json = {
        "inputs": [{**tensor, "data": rows}],
        "outputs": [{"name": "digit", "parameters": {"classification": 2}}],
    }
    binary = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 256}}]}).encode()
    length = f"application/octet-stream\r\nInference-Header-Content-Length: {len(binary)}"
    form = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n--b--\r\n'
    return [
        Right("/v2/models/digits/infer", json.dumps(as_json).encode()),
        Right("/v2/models/digits/infer", binary + pictures[:1].tobytes(), length),
        Right("/v1/models/digits:predict", json.dumps({"instances": rows}).encode()),
        Right("/v1/models/digits/versions/1:classify", json.dumps({"examples": [{"image": rows[0]}]}).encode()),
        Right("/predictions/digits", json.dumps(rows).encode()),
        Right("/predictions/digits", form % (b"data", png(0)), "multipart/form-data; boundary=b"),
        Right("/predict?top=3", form % (b"image", png(0)), "multipart/form-data; boundary=b"),
        Right("/predict", png(0), "image/png"),
    ]


def speak(address: str, sent: bytes) -> tuple[int, str, str] | None:
    """Send bytes, and return the answer: status, content type, body; None where the line is closed without one."""
    at = urlsplit(address)
    with socket.create_connection((at.hostname, at.port), timeout=60) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            body = answer.read()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
    return answer.status, answer.headers.get("Content-Type", ""), body.decode(errors="replace")


@pytest.fixture(scope="module")
def schema(people: Any, png: Callable[[int], bytes]) -> Any:
    load_all_checks()
    whole = png(0)
    picture = st.just(whole) | st.integers(0, len(whole)).map(lambda end: whole[:end]) | st.binary(max_size=99)
    schemathesis.openapi.media_type("image/png", picture)
    schemathesis.openapi.format("binary", picture)
    found = schemathesis.openapi.from_url(f"{people.http}/openapi.json")
    return found.exclude(operation_id="oipUnload")


@pytest.fixture(scope="module", autouse=True)
def still_answers(people: Any, rights: list[Right]) -> Iterator[None]:
    """Whatever was sent, in the end every protocol answers as before."""

    def answers() -> list[str]:
        found = [speak(people.http, right.whole) for right in rights]
        assert [answer and answer[0] for answer in found] == [200] * len(rights), found
        return [answer[2].partition('"ms"')[0] for answer in found if answer]

    before = answers()
    yield
    assert answers() == before


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "malformed"])
def test_every_answer_is_one_that_openapi_promises(schema: Any, mode: GenerationMode) -> None:
    with requests.Session() as session:

        @SOME
        @given(case=schema.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            answer = case.call(session=session, timeout=60)
            honest(answer.status_code, answer.headers.get("content-type", [""])[0], answer.text)
            case.validate_response(answer, checks=CHECKS)

        send()


@st.composite
def changed(draw: st.DrawFn, body: bytes) -> bytes:
    """JSON in which one value, somewhere, is another one or none at all."""
    whole = json.loads(body)
    inside = whole
    while True:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(inside[key], (dict, list)) or not inside[key] or draw(st.booleans()):
            break
        inside = inside[key]
    if draw(st.integers(0, 4)):
        inside[key] = draw(JSON)
    else:
        del inside[key]
    return json.dumps(whole).encode()


def test_one_wrong_value_in_a_right_request_is_answered(people: Any, rights: list[Right]) -> None:
    as_json = [right for right in rights if right.kind == "application/json"]

    @SOME
    @given(data=st.data())
    def send(data: st.DataObject) -> None:
        right = data.draw(st.sampled_from(as_json))
        body = data.draw(changed(right.body))
        answer = requests.post(people.http + right.path, body, headers={"Content-Type": right.kind}, timeout=60)
        honest(answer.status_code, answer.headers["content-type"], answer.text)

    send()


HUGE = {"name": "image", "shape": [2**62, 4], "datatype": "FP32", "data": []}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"inputs":' * 10_000 + b"NaN",
        b'{"instances": ' + b"9" * 10_000 + b"}",
        b'{"instances": [[[' + b"1e999, " * 63 + b"NaN]]]}",
        json.dumps({"inputs": [HUGE], "instances": [None] * 100_000}).encode(),
        b'{"examples": [{"image": "\\ud800"}], "inputs": [{"name": "\\ud800"}]}',
        b"\xff\xfe{}",
        b"",
    ],
    ids=["deep", "deep with NaN", "long number", "infinite", "huge", "half a surrogate", "no UTF-8", "nothing"],
)
def test_json_that_is_out_of_bounds_is_answered(people: Any, rights: list[Right], body: bytes) -> None:
    for right in rights:
        answer = requests.post(people.http + right.path, body, headers={"Content-Type": "application/json"}, timeout=60)
        honest(answer.status_code, answer.headers["content-type"], answer.text)
        assert answer.status_code in (400, 413, 415), answer.text


@st.composite
def damaged(draw: st.DrawFn, sent: bytes) -> bytes:
    """Bytes some of which are cut, doubled, or other ones."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(sent)))
        end = draw(st.integers(start, min(len(sent), start + 16)))
        sent = sent[:start] + draw(st.binary(max_size=8) | st.just(sent[start:end] * 2)) + sent[end:]
    return sent[: draw(st.integers(0, len(sent)))] if draw(st.booleans()) else sent


def test_damaged_bytes_are_answered(serve: Callable[..., Any], naming: Path, rights: list[Right]) -> None:
    """What has lost its end is waited for, a short while here, and then answered as well."""
    made: list[bytes] = []

    @SOME
    @given(data=st.data())
    def make(data: st.DataObject) -> None:
        made.append(data.draw(damaged(data.draw(st.sampled_from(rights)).whole)))

    make()
    with serve({"limits": Limits(head_s=1, body_s=1)}, digits=naming) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(partial(speak, server.http), made))
    for sent, answer in zip(made, answers, strict=True):
        assert answer or not sent, sent
        if answer:
            honest(*answer)
    assert {200, 400, 408} <= {answer[0] for answer in answers if answer}


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (400, "application/json", '{"error": ""}'),
        (400, "application/json", '{"detail": "wrong"}'),
        (400, "text/plain; charset=utf-8", "Invalid HTTP request received."),
        (400, "application/json", '{"error": "cannot identify <_io.BytesIO object at 0x7f16dead>"}'),
        (500, "application/json", '{"error": "the request: failed unexpectedly (KeyError)"}'),
        (200, "text/plain", f"Traceback (most recent call last):\n  File {__file__}"),
    ],
)
def test_what_must_not_be_is_found(status: int, kind: str, body: str) -> None:
    with pytest.raises((AssertionError, KeyError, ValueError)):
        honest(status, kind, body)


@pytest.mark.parametrize(
    ("line", "status", "allow"),
    [
        ("GET /nowhere", 404, None),
        ("GET /v2/", 404, None),
        ("GET //", 404, None),
        ("PUT /predict", 405, "POST"),
        ("DELETE /status", 405, "GET, HEAD"),
    ],
)
def test_what_the_framework_refuses_has_the_same_form(people: Any, line: str, status: int, allow: str | None) -> None:
    method, path = line.split()
    answer = requests.request(method, people.http + path, timeout=60)
    honest(answer.status_code, answer.headers["content-type"], answer.text)
    assert (answer.status_code, path in answer.json()["error"]) == (status, True)
    assert sorted((answer.headers.get("Allow") or "").split(", ")) == sorted((allow or "").split(", "))
