"""Places and memory are given back, and are never more than there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from watching import until

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rpc import server as servers
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.room import Room
from edgeferry_runtime.serving.settings import Limits


def test_only_so_many_have_a_place() -> None:
    room = Room(2, 10)
    for _ in range(2):
        with room.place(), room.place():
            with pytest.raises(RefusedError, match="the server: answers 2 such calls") as refused, room.place():
                pass
            assert refused.value.kind is Kind.BUSY


def test_messages_have_only_so_many_bytes_together() -> None:
    room = Room(9, 10)
    with room.place() as one:
        with room.place() as other:
            one(4), other(6)
            with pytest.raises(RefusedError, match="holds as many messages as it has memory for"):
                one(5)
            other(3), one(7), one(0)
        with room.place() as other:
            other(10)
    with room.place() as other:
        other(10)


class Slow:
    """A call whose message does not come until it is let go."""

    def __init__(self, rpc: Any, method: str) -> None:
        self._go = threading.Event()
        self.call = rpc.channel.stream_unary(rpc.path(method)).future(self._requests(), timeout=60)

    def _requests(self) -> Iterator[bytes]:
        self._go.wait(60)
        yield b""

    def end(self) -> None:
        self._go.set()
        self.call.cancel()


@contextmanager
def slow(rpc: Any, method: str, count: int) -> Iterator[list[Slow]]:
    calls = [Slow(rpc, method) for _ in range(count)]
    try:
        yield calls
    finally:
        for call in calls:
            call.end()


def status(rpc: Any, method: str) -> str:
    try:
        rpc.send(method, b"")
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def test_the_limit_holds_after_calls_were_refused(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need no token have places of their own."""
    monkeypatch.setattr(servers, "AT_ONCE", 2)
    with serve() as server, connect(server.grpc) as rpc, connect(server.grpc) as other:
        with slow(rpc, "inference/RepositoryIndex", 2):
            until(lambda: 'edgeferry_requests_in_flight{protocol="grpc"} 2.0' in server.figures())
            assert {status(other, "inference/RepositoryIndex") for _ in range(20)} == {"RESOURCE_EXHAUSTED"}
            assert status(other, "inference/ServerLive") == "OK"
        until(lambda: status(other, "inference/RepositoryIndex") == "OK")


def test_one_connection_cannot_take_every_place(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "AT_ONCE", 2)
    monkeypatch.setattr(servers, "OF_A_CONNECTION", 1)
    with serve() as server, connect(server.grpc) as rpc, connect(server.grpc) as other:
        assert status(rpc, "inference/ServerLive") == "OK"
        with slow(rpc, "inference/RepositoryIndex", 5):
            for _ in range(20):
                assert status(other, "inference/RepositoryIndex") == "OK"


def test_what_needs_no_token_is_short(server: Any, connect: Any, rpc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rpc.refused("health/Check", bytes(4097)) == (
        "RESOURCE_EXHAUSTED",
        "the message: has 4097 bytes, and 4096 are allowed; send a smaller one",
    )
    with slow(rpc, "health/Check", 1) as (call,):
        assert call.call.exception(30).details() == "the request: did not come in time; take at most 1 s"


def test_messages_that_wait_have_only_so_much_memory(serve: Any, connect: Any, bundles: Any) -> None:
    """Each holds its bytes from when it came until it is answered."""
    with serve({"limits": Limits(body_bytes=1 << 18)}, digits=bundles["float"]) as server, connect(server.grpc) as rpc:
        request = message("inference.ModelInferRequest")(model_name="digits")
        request.inputs.add(name="image", datatype="UINT8").contents.uint_contents.extend([0] * 250_000)
        server.do(server.service.reading.acquire())
        call = rpc.channel.unary_unary(rpc.path("inference/ModelInfer"))
        data = request.SerializeToString()
        running = [call.future(data, timeout=60) for _ in range(9)]
        codes = until(lambda: [one.code().name for one in running if one.done()])
        server.loop.call_soon_threadsafe(server.service.reading.release)
        found = sorted(one.exception(60).code().name for one in running)
    assert (codes, found) == (["RESOURCE_EXHAUSTED"], ["INVALID_ARGUMENT"] * 8 + ["RESOURCE_EXHAUSTED"])
