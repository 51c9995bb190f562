"""HTTP/1.1 on one connection: uvicorn's, with an end to its patience.

A client that keeps the server waiting is let go of: one that does not finish a head, that stops in the middle of a
body, or that does not read its answer. Nothing is done for that while bytes flow; a timer of each connection looks
now and then.
"""

from __future__ import annotations

import fcntl
import math
import struct
import termios
from asyncio import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.answers import error_answer
from edgeferry_runtime.serving.rest.guard import REFUSED
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import Telling

HEAD_BYTES = 64 << 10
"""The longest head, counted in what comes until it is whole."""

SLOWEST = 1024
"""Bytes a second that a client must send or read, once its patience is used up."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What comes before an answer, where the client waits for it."""

LINGER_S = 2.0
"""How long what a client still sends is thrown away after the last answer, lest a reset destroy it on its way.

Source: RFC 9112, section 9.6.
"""


class Protocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: How long a client may take for what.
        telling: Hears of what is refused before there is a request.
        uvicorns: What uvicorn's own protocol takes.
    """

    def __init__(self, limits: Limits, telling: Telling, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits, self._telling = limits, telling
        self._pause = min(limits.head_s, limits.body_s)
        self._head_since: float | None = self.loop.time()
        self._head_bytes = self._body_bytes = 0
        self._giving, self._taking = _Pace(limits.body_s), _Pace(limits.body_s)
        self._lingering = self._understood = False
        self._refusal: RefusedError | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin, or refuse one connection too many."""
        super().connection_made(transport)
        self._soft = _Soft(transport, self)
        self._head_since = self.loop.time()
        self._timer = self.loop.call_later(self._pause, self._look)
        if len(self.connections) > self._limits.connections:
            reason = "has as many connections as it takes"
            self._refuse(RefusedError(Kind.BUSY, "the server", reason, "try again later", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._timer.cancel()
        self._soft.protocol = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; once something is refused, throw them away."""
        if self._lingering or self._refusal:
            return
        if self._head_since is None and self._is_idle():
            self._begin_head()
        self._understood = False
        super().data_received(data)
        if self._head_since is not None or not (self._understood or self._is_idle()):
            self._count_head(len(data))

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        if self._head_since is None:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of a head; those of a trailer are of no use here."""
        if self._head_since is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request's body."""
        self._head_since = None
        self._understood, self._head_bytes = True, 0
        super().on_headers_complete()
        self.cycle.transport = self._soft  # type: ignore[assignment]
        self._body_bytes = 0
        self._giving.begin(self.loop.time(), 0)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._understood, self._head_bytes = True, 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Go on to the next request, unless this was the last."""
        self._soft.complete()
        if not self._lingering:
            super().on_response_complete()
        if self._refusal and self._is_idle() and not self.transport.is_closing():
            self._refuse(self._refusal)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the place in the line of requests where it came."""
        self._refuse_head(RefusedError(Kind.INVALID, "the request", "is not HTTP/1.1", "send a well-formed one"))

    def end(self) -> None:
        """Close the connection after its last answer, whose way to the client must stay free."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _begin_head(self) -> None:
        self._head_since, self._head_bytes = self.loop.time(), 0

    def _count_head(self, size: int) -> None:
        """Count bytes of a head, or of what stands around the parts of a body: sizes, extensions, a trailer."""
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            part = "trailer" if self._head_since is None else "head"
            fix = f"send less than {HEAD_BYTES} bytes"
            self._refuse_head(RefusedError(Kind.HEAD, f"the request's {part}", "is too long", fix))

    def _look(self) -> None:
        """See whether the client keeps us waiting, and look again when it could."""
        now = self.loop.time()
        if self._lingering or self._is_stuck(now):
            self.transport.abort()
            return
        left = self._left(now)
        if left <= 0:
            self._cut()
        if not self._lingering:
            soon = min(self._pause, left, self._taking.due(now)) if left > 0 else self._pause
            self._timer = self.loop.call_later(soon, self._look)

    def _is_stuck(self, now: float) -> bool:
        """Tell whether an answer is on its way, and the client hardly takes any of it."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting:
            self._taking.stop()
            return False
        taken = self._soft.written - waiting - _in_kernel(self.transport)
        return self._taking.is_slow(now, taken)

    def _left(self, now: float) -> float:
        """Return how many seconds the client may still keep us waiting; none where it is late."""
        if self._is_idle():
            return math.inf if self._head_since is None else self._head_since + self._limits.head_s - now
        if not self.cycle.more_body or self.cycle.waiting_for_100_continue:
            return math.inf
        if self.flow.read_paused:
            self._giving.begin(now, self._body_bytes)
        return 0 if self._giving.is_slow(now, self._body_bytes) else self._giving.due(now)

    def _cut(self) -> None:
        if not self._is_idle():
            reason = "did not come in time"
            self._refuse_later(RefusedError(Kind.SLOW, "the rest of the body", reason, "send it faster"))
        elif self._head_bytes:
            reason = "did not come in time"
            self._refuse(RefusedError(Kind.SLOW, "the rest of the request's head", reason, "send it faster"))
        else:
            self.transport.close()

    def _refuse_head(self, refusal: RefusedError) -> None:
        """Refuse what came behind all requests that are understood, which are answered first."""
        if self._is_idle():
            self._refuse(refusal)
        else:
            self._refuse_later(refusal)

    def _refuse_later(self, refusal: RefusedError) -> None:
        """Refuse after what is in flight; a request that waits for its body is told why that does not come."""
        self._refusal = refusal
        if self.cycle.more_body:
            self.cycle.scope["state"][REFUSED] = refusal
            self.cycle.message_event.set()

    def _refuse(self, refusal: RefusedError) -> None:
        """Answer what never became a request."""
        if self._lingering:
            return
        visit = self._telling.begin("http", self.client[0] if self.client else "", "", "")
        answer = error_answer(refusal)
        headers = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[answer.status_code], lines, answer.body))
        visit.bytes_out = len(answer.body)
        self._telling.end(visit, answer.status_code)
        self._linger()

    def _linger(self) -> None:
        """Say that nothing more is sent, unless TLS forbids that, and throw away for a while what still comes."""
        self._lingering = True
        self._unset_keepalive_if_required()
        self._timer.cancel()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self._look)


class _Pace:
    """Whether bytes flow, judged by what came of them in a whole while, and never by a moment.

    Args:
        while_s: How long that is.
    """

    __slots__ = ("_before", "_since", "_while_s")

    def __init__(self, while_s: float) -> None:
        self._while_s = while_s
        self.stop()

    def stop(self) -> None:
        """Count no more, until the next look."""
        self._since, self._before = math.inf, 0

    def begin(self, now: float, count: int) -> None:
        """Count from here."""
        self._since, self._before = now, count

    def due(self, now: float) -> float:
        """Return in how many seconds the while is over."""
        return self._since + self._while_s - now

    def is_slow(self, now: float, count: int) -> bool:
        """Tell whether a while is over and too little came in it; then another one begins."""
        over, least = self.due(now) <= 0, self._before + SLOWEST * (now - self._since)
        if over or self._since == math.inf:
            self.begin(now, count)
        return over and count < least


class _Soft:
    """A transport as answers see it, one after the other.

    An answer's head goes out together with what follows it, so that the client wakes once. Bytes are counted, and to
    close is left to the connection.
    """

    __slots__ = ("_between", "_head", "_write", "is_closing", "protocol", "written")

    def __init__(self, transport: Transport, protocol: Protocol) -> None:
        self._write, self.is_closing = transport.writelines, transport.is_closing
        self.protocol: Protocol | None = protocol
        self.written = 0
        self._head: bytes = b""
        self._between = True

    def write(self, data: bytes) -> None:
        """Write."""
        if self._between and data != CONTINUE:
            self._between, self._head = False, data
        else:
            self._send(data)

    def complete(self) -> None:
        """Write what is left of an answer; what comes now is another one's head."""
        if self._head:
            self._send(b"")
        self._between = True

    def close(self) -> None:
        """Close it, if there still is one."""
        self.complete()
        if self.protocol is not None:
            self.protocol.end()

    def _send(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self.written += len(head) + len(data)
        self._write([head, data] if head else [data])


def _in_kernel(transport: Transport) -> int:
    """Return how many bytes the kernel keeps until the client has acknowledged them."""
    try:
        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", told)[0])
