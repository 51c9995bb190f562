"""What stands before every path: who may enter, how much may be brought along, and what is told of it.

A pure ASGI application around another. `protocol` guards the connection below it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from ipaddress import ip_address

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.answers import error_answer
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.telling import Telling, Visit
from edgeferry_runtime.serving.token import permits

Headers = Mapping[bytes, bytes]

FREE = frozenset({"/v2/health/live", "/v2/health/ready", "/ping", "/", "/style.css", "/page.js", "/icon.svg"})
"""Paths that may be read without a token: they tell nothing of the models."""

HOST = re.compile(r"\[?(?P<name>[^\]]*?)\]?(:[0-9]*)?")
"""A Host header: a name, or an address, which is in brackets where it has colons itself. Source: RFC 3986, 3.2.2."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})

TOGETHER = 8
"""How many bodies of the largest size all requests together may hold in memory."""

LEFT = 499
"""What the log shows where the client was gone before there was an answer."""

REFUSED = "refused"
"""Where `protocol` leaves in a request's state the reason why the rest of its body does not come."""

HOLD = "hold"
"""Where a request's state has what counts the bytes of its body in memory, for those that become more."""


class Guard:
    """Lets requests through to an application, or refuses them.

    Args:
        app: The application.
        service: What it serves; its limits hold.
        telling: Hears of each request.
        token: What every client must show; None lets everybody in.
        local: Whether only this machine reaches it. Pages in its browsers do too, so that without a token none may act
            that is of another name than localhost.
    """

    def __init__(
        self, app: ASGIApp, service: Service, telling: Telling, token: str | None, local: bool = False
    ) -> None:
        self._app, self._service, self._telling, self._token = app, service, telling, token
        self._is_open = local and token is None
        self._most = service.limits.body_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        client = scope["client"]
        visit = self._telling.begin("http", client[0] if client else "", scope["method"], scope["path"])
        headers = dict(scope["headers"])
        passage = _Passage(self, scope, receive, send, visit)
        scope["state"][HOLD] = passage.hold
        passage.unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        try:
            await (self._refusal(scope, headers, passage) or self._app)(scope, passage.receive, passage.send)
        except asyncio.CancelledError:
            if passage.status or not self._service.stopping:
                raise
            await error_answer(_stopping())(scope, receive, passage.send)
        finally:
            self._held -= passage.held
            self._telling.end(visit, passage.status or LEFT)

    def _refusal(self, scope: Scope, headers: Headers, passage: _Passage) -> Response | None:
        """Return what to answer instead of what was asked for; None lets the request through."""
        reading, path = scope["method"] in READING, scope["path"]
        free = reading and path in FREE
        if self._service.stopping and not free:
            return error_answer(_stopping())
        if not free and not permits(self._token, headers.get(b"authorization")):
            return _unknown(b"authorization" in headers)
        if not reading and _is_foreign(headers):
            reason = "was made by the page of another site"
            return error_answer(RefusedError(Kind.FORBIDDEN, "the request", reason, "send it without a browser"))
        if not reading and self._is_open and _is_renamed(headers):
            return error_answer(_misnamed())
        try:
            size = int(headers.get(b"content-length", b"0"))
            self.check(size, size)
        except RefusedError as error:
            return error_answer(error)
        return None

    @property
    def stopping(self) -> bool:
        """Whether connections are closed after their answer."""
        return self._service.stopping

    def check(self, size: int, whole: int) -> None:
        """See whether there is room for so many bytes of a body, of which there are so many then.

        Raises:
            RefusedError: TOO_LARGE for one body, BUSY for all of them.
        """
        if whole > self._most:
            reason = f"has more than the {self._most} bytes that are allowed"
            raise RefusedError(Kind.TOO_LARGE, "the body", reason, "send less at a time")
        if self._held + size > self._most * TOGETHER:
            reason = "holds as many bodies as it has memory for"
            raise RefusedError(Kind.BUSY, "the server", reason, "try again later", retry_after_s=1)

    def hold(self, size: int, whole: int) -> None:
        """Count so many bytes of a body that came, of which there are so many now.

        Raises:
            RefusedError: As `check`.
        """
        self.check(size, whole)
        self._held += size


class _Passage:
    """One request on its way through the guard.

    Attributes:
        status: The status of its answer; 0 before there is one.
        unread: Whether the client may still be sending its body.
        held: Bytes of its body that the guard counts as being in memory.
    """

    __slots__ = ("_guard", "_receive", "_scope", "_send", "_visit", "held", "status", "unread")

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        self._guard, self._scope, self._receive, self._send, self._visit = guard, scope, receive, send, visit
        self.status, self.unread, self.held = 0, False, 0

    def hold(self, whole: int) -> None:
        """Count a body of so many bytes.

        Raises:
            RefusedError: If it, or all bodies together, are too large.
        """
        if whole > self.held:
            self._guard.hold(whole - self.held, whole)
            self.held = whole

    async def receive(self) -> Message:
        """Take the next part of the body.

        Raises:
            RefusedError: If it is too large, or its rest does not come.
        """
        message = await self._receive()
        if not self.unread:
            return message
        if REFUSED in self._scope["state"]:
            raise self._scope["state"][REFUSED]
        if message["type"] != "http.request":
            raise RefusedError(Kind.SLOW, "the body", "broke off", "send all of it")
        self._visit.bytes_in += len(message["body"])
        self.hold(self._visit.bytes_in)
        self.unread = message["more_body"]
        return message

    async def send(self, message: Message) -> None:
        """Give the next part of the answer. Where the rest of the body is not wanted, it is the connection's last."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.unread or self._guard.stopping:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        else:
            self._visit.bytes_out += len(message.get("body", b""))
        await self._send(message)


def _stopping() -> RefusedError:
    return RefusedError(Kind.NOT_READY, "the server", "is about to stop", "try again later", retry_after_s=1)


def _misnamed() -> RefusedError:
    reason = "comes from a browser, and names this server otherwise than localhost"
    return RefusedError(Kind.FORBIDDEN, "the request", reason, "call it localhost or 127.0.0.1, or give it a token")


def _unknown(shown: bool) -> Response:
    reason = "shows a token that is not the server's" if shown else "shows no token"
    fix = "send the header Authorization: Bearer TOKEN"
    answer = error_answer(RefusedError(Kind.UNAUTHENTICATED, "the request", reason, fix))
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _is_foreign(headers: Headers) -> bool:
    """Tell whether a browser sends this for a page of another site, which could not read the answer, but do harm.

    Source: Fetch Metadata Request Headers, section 2.3; the Origin header of RFC 6454 for browsers without them.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _is_renamed(headers: Headers) -> bool:
    """Tell whether a browser sends this to a name that may only stand for this machine because its owner says so.

    A page of that name would be of the same origin as this server (DNS rebinding). An address is nobody's to change.
    """
    if b"origin" not in headers and b"sec-fetch-site" not in headers:
        return False
    found = HOST.fullmatch(headers.get(b"host", b"").decode("latin-1"))
    name = found["name"].lower() if found else ""
    return name != "localhost" and not _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
