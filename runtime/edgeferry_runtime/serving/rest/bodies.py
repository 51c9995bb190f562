"""Bodies of requests, as they were before a client compressed them."""

from __future__ import annotations

import zlib
from functools import partial

from starlette.requests import Request

from edgeferry_runtime.serving.aside import aside
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.guard import HOLD
from edgeferry_runtime.serving.service import Service

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""By content coding, what zlib calls it. Source: RFC 9110, 8.4.1."""


async def read_body(request: Request) -> bytes:
    """Read the body of a request, and decompress it where it is compressed.

    Raises:
        RefusedError: MEDIA_TYPE for an unknown coding, TOO_LARGE beyond the server's limit, INVALID where it is
            damaged, BUSY where all bodies together take too much memory.
    """
    body = await request.body()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    service: Service = request.app.state.service
    found = await aside(service, partial(decompress, body, coding, service.limits.body_bytes))
    request.scope["state"][HOLD](len(found))
    return found


def decompress(body: bytes, coding: str, most: int) -> bytes:
    """Decompress a body, without ever holding more than one byte too much of it.

    Raises:
        RefusedError: As `read_body`.
    """
    if coding not in WINDOWS:
        known = f"send it as it is, or by {', '.join(WINDOWS)}"
        raise RefusedError(Kind.MEDIA_TYPE, "the body", f"is compressed by {coding[:40]!r}", known)
    stream = zlib.decompressobj(WINDOWS[coding])
    try:
        found = stream.decompress(body, most + 1)
    except zlib.error:
        raise RefusedError(Kind.INVALID, "the body", f"is no {coding}", "compress it again") from None
    if len(found) > most:
        raise RefusedError(
            Kind.TOO_LARGE, "the body", f"has more than {most} bytes decompressed", "send less at a time"
        )
    if not stream.eof or stream.unused_data:
        raise RefusedError(Kind.INVALID, "the body", f"is not one whole {coding} stream", "compress it again")
    return found
