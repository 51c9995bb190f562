"""Bodies that a client compressed."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import on_error
from edgeferry_runtime.serving.rest.bodies import decompress, read_body
from edgeferry_runtime.serving.rest.guard import TOGETHER, Guard
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Limits, Settings
from edgeferry_runtime.serving.telling import Telling

COMPRESS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", COMPRESS)
@given(body=st.binary(max_size=200))
def test_what_was_compressed_comes_back(coding: str, body: bytes) -> None:
    assert decompress(COMPRESS[coding](body), coding, len(body)) == body


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_bomb_is_refused_before_it_is_unpacked(coding: str) -> None:
    bomb = COMPRESS[coding](bytes(1 << 24))
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="has more than 1000 bytes decompressed") as refused:
            decompress(bomb, coding, 1000)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.kind is Kind.TOO_LARGE
    assert most < 1 << 20


@pytest.mark.parametrize("coding", COMPRESS)
@given(data=st.data())
def test_a_damaged_body_is_refused(coding: str, data: st.DataObject) -> None:
    body = COMPRESS[coding](b"some text, some more text")
    damaged = body[: data.draw(st.integers(0, len(body) - 1))] + data.draw(st.binary(max_size=3))
    if damaged == body:
        return
    with pytest.raises(RefusedError) as refused:
        decompress(damaged, coding, 1000)
    assert refused.value.kind is Kind.INVALID


def test_what_follows_a_stream_is_refused() -> None:
    with pytest.raises(RefusedError, match="is not one whole gzip stream"):
        decompress(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", 1000)


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", ""])
def test_an_unknown_coding_is_refused(coding: str) -> None:
    with pytest.raises(RefusedError, match=r"is compressed by .*; send it as it is, or by gzip") as refused:
        decompress(b"", coding, 1000)
    assert refused.value.kind is Kind.MEDIA_TYPE


def test_what_is_decompressed_counts_as_held_in_memory() -> None:
    body, go = gzip.compress(bytes(1000)), asyncio.Event()

    async def read_and_hold(request: Request) -> Response:
        assert await read_body(request) == bytes(1000)
        await go.wait()
        return Response()

    async def ask(guard: Guard) -> int:
        scope = {"type": "http", "method": "POST", "path": "/", "client": ("::1", 1), "state": {}, "headers": []}
        scope["headers"] = [(b"content-length", str(len(body)).encode()), (b"content-encoding", b"gzip")]
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        await guard(scope, receive, send)
        return int(statuses[0])

    async def life() -> list[int]:
        service = Service(Repository(Settings()), Limits(body_bytes=1000))
        route = Route("/", read_and_hold, methods=["POST"])
        app = Starlette(routes=[route], exception_handlers={EdgeferryError: on_error})
        app.state.service = service
        guard = Guard(app, service, Telling(), None)
        asked = [asyncio.create_task(ask(guard)) for _ in range(TOGETHER + 2)]
        while sum(task.done() for task in asked) < 2:
            await asyncio.sleep(0.001)
        go.set()
        return [*await asyncio.gather(*asked), await ask(guard)]

    statuses = asyncio.run(asyncio.wait_for(life(), 20))
    assert (sorted(statuses[:-1]), statuses[-1]) == ([200] * TOGETHER + [503] * 2, 200)
