"""What stands around every gRPC call: who may, how long, how much, what an error becomes, and what is told of it.

Messages are parsed and written here and not by gRPC, whose own way with a message that cannot be parsed is a traceback
on stderr and a status without a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.patience import Streams, cancelled_after, within
from edgeferry_runtime.serving.rpc.room import Room
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import Telling, Visit
from edgeferry_runtime.serving.token import permits

DETAILS = 1000
"""The most characters of a status, which travels in a header: clients take headers of 8 KiB in all."""

FREE_BYTES = 4 << 10
"""The largest message of a client that needs to show no token."""

FREE_S = 1.0
"""How long such a message may take to come."""

Answering = Callable[[Any, float | None], Awaitable[Any]]
"""Takes a request's message, and how many seconds the client waits, None where it does not say; returns the answer's
message, or raises what `refuse` understands."""


@dataclass(frozen=True)
class Method:
    """A method of a gRPC service.

    Attributes:
        request: The full name of the message that it takes; empty where that is not looked at.
        answer: What answers it.
        free: Whether a client needs no token.
        stream: Whether a client may send any number of requests, each of which is answered in turn.
    """

    request: str
    answer: Answering
    free: bool = False
    stream: bool = False


def unimplemented(name: str, reason: str, fix: str) -> Method:
    """Make a method that only says why it is none."""

    async def answer(request: Any, timeout_s: float | None) -> Any:
        raise RefusedError(Kind.METHOD, name, reason, fix)

    return Method("", answer)


@dataclass(frozen=True)
class House:
    """What the methods of all services share.

    Attributes:
        limits: What is let in.
        token: What every client must show; None lets everybody in.
        telling: Hears of each call.
        streams: The streams that are open.
        room: Where calls have a place.
        free: Where those have one that need no token, so that these leave the others theirs.
    """

    limits: Limits
    token: str | None
    telling: Telling
    streams: Streams
    room: Room
    free: Room


def generic_handler(service: str, methods: Mapping[str, Method], house: House) -> grpc.GenericRpcHandler:
    """Make what gRPC needs to serve methods by name.

    All are handled as streams, since on the wire a single message is a stream of one: so it is this module that waits
    for it, and no longer than it may.
    """
    made = {name: Handling(f"/{service}/{name}", method, house) for name, method in methods.items()}
    handlers = {name: grpc.stream_stream_rpc_method_handler(handling.handle) for name, handling in made.items()}
    return grpc.method_handlers_generic_handler(service, handlers)


class Handling:
    """Handles the calls of one method.

    Args:
        name: ``/SERVICE/METHOD``.
        method: The method.
        house: What it shares with others.
    """

    def __init__(self, name: str, method: Method, house: House) -> None:
        self._name, self._method, self._house = name, method, house
        self._room = house.free if method.free else house.room
        self._patience_s = min(FREE_S, house.limits.timeout_s) if method.free else house.limits.timeout_s
        self._parse = message(method.request).FromString if method.request else bytes

    async def handle(self, requests: object, context: Any) -> None:
        """Answer a call; gRPC's own iterator over its requests is not used."""
        visit = self._house.telling.begin("grpc", _client(context.peer()), "", self._name)
        async with Boundary(visit, context, self._house.telling):
            self._admit(context)
            with self._room.place() as hold:
                with within(self._patience_s, "the request", "did not come in time"):
                    request = await self._read(visit, context, hold)
                if request is None:
                    raise RefusedError(Kind.INVALID, "the request", "has no message", "send one")
                while request is not None:
                    await self._answer(request, visit, context)
                    del request
                    request = await self._following(visit, context, hold) if self._method.stream else None

    def _admit(self, context: Any) -> None:
        if self._method.free or self._house.token is None:
            return
        header = next((value for key, value in context.invocation_metadata() if key == "authorization"), None)
        if not permits(self._house.token, header):
            reason = "shows no token" if header is None else "shows a token that is not the server's"
            fix = "send the metadata authorization: Bearer TOKEN"
            raise RefusedError(Kind.UNAUTHENTICATED, "the request", reason, fix)

    async def _following(self, visit: Visit, context: Any, hold: Callable[[int], None]) -> Any:
        """Return a stream's next request; None after the last one."""
        hold(0)
        with self._house.streams.resting(self._house.limits.idle_s):
            return await self._read(visit, context, hold)

    async def _read(self, visit: Visit, context: Any, hold: Callable[[int], None]) -> Any:
        """Return the next request; None after the last one."""
        data = await context.read()
        if data is grpc.aio.EOF:
            return None
        visit.bytes_in += len(data)
        if self._method.free and len(data) > FREE_BYTES:
            reason = f"has {len(data)} bytes, and {FREE_BYTES} are allowed"
            raise RefusedError(Kind.TOO_LARGE, "the message", reason, "send a smaller one")
        hold(len(data))
        try:
            return self._parse(data)
        except DecodeError:
            reason = f"is no {self._method.request}"
            raise RefusedError(Kind.INVALID, "the message", reason, "send one that protobuf wrote") from None

    async def _answer(self, request: Any, visit: Visit, context: Any) -> None:
        """Answer a request; a client that does not read the answer could not be told so either, and is left."""
        data = (await self._method.answer(request, context.time_remaining())).SerializeToString()
        with cancelled_after(self._house.limits.body_s):
            await context.write(data)
        visit.bytes_out += len(data)


class Boundary:
    """The one place where the errors of a call become a status, and where it is known how each call ended.

    Args:
        visit: What is known of the call.
        context: gRPC's side of it.
        telling: Hears how it ended.
    """

    def __init__(self, visit: Visit, context: Any, telling: Telling) -> None:
        self._visit, self._context, self._telling = visit, context, telling

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer an error, unless the client is gone."""
        if error is None:
            self._telling.end(self._visit, "OK")
        elif not isinstance(error, Exception) or isinstance(error, grpc.aio.BaseError):
            self._telling.end(self._visit, "CANCELLED")
        else:
            await self._refuse(error)

    async def _refuse(self, error: Exception) -> None:
        if not isinstance(error, EdgeferryError):
            logging.getLogger(__name__).error("%s failed unexpectedly", self._visit.path, exc_info=error)
        refusal = refuse(error)
        self._telling.end(self._visit, refusal.kind.code)
        wait_s = refusal.retry_after_s
        trailing = () if wait_s is None else (("grpc-retry-pushback-ms", str(wait_s * 1000)),)
        await self._context.abort(grpc.StatusCode[refusal.kind.code], str(refusal)[:DETAILS], trailing)


def _client(peer: str) -> str:
    """Return the address in gRPC's ``ipv4:127.0.0.1:50972`` or ``ipv6:%5B::1%5D:50972``."""
    address = peer.partition(":")[2].rpartition(":")[0]
    return address.removeprefix("%5B").removesuffix("%5D")
