"""What is told of each request, whatever protocol it came by: a line of the access log, and figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson

from edgeferry_runtime.serving.figures import Figures
from edgeferry_runtime.serving.lines import now

PATH_MOST = 512
"""Characters of a path that the log keeps."""


@dataclass
class Visit:
    """A request that is being answered.

    Attributes:
        protocol: ``http`` or ``grpc``.
        client: The client's address.
        method: The HTTP method; empty where no head came, and over gRPC.
        path: The path without its query, which could hold secrets; over gRPC ``/SERVICE/METHOD``.
        started: When it came, by `time.monotonic`.
        model: The model that answers; empty where none does.
        version: Its version.
        queue_ms: How long it waited for a thread.
        compute_ms: How long the model took.
        bytes_in: Bytes of its body.
        bytes_out: Bytes of the answer's body.
    """

    protocol: str
    client: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    version: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def tell_model(model: str, version: int) -> None:
    """Note which model answers the request that is being answered here."""
    visit = _VISIT.get()
    if visit is not None:
        visit.model, visit.version = model, version


def tell_times(queue_ms: float, compute_ms: float) -> None:
    """Note what a run of the model took; several runs add up."""
    visit = _VISIT.get()
    if visit is not None:
        visit.queue_ms += queue_ms
        visit.compute_ms += compute_ms


class Telling:
    """The one hook of every protocol: `begin` when a request comes, `end` when its answer is written.

    Args:
        write: Takes a line of the access log; None keeps none.

    Attributes:
        figures: What Prometheus reads.
    """

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self.figures = Figures()
        self._write = write

    def begin(self, protocol: str, client: str, method: str, path: str) -> Visit:
        """Note that a request has come; what runs in this context from now on runs for it."""
        visit = Visit(protocol, client, method, path)
        _VISIT.set(visit)
        self.figures.enter(protocol)
        return visit

    def end(self, visit: Visit, status: int | str) -> None:
        """Note that its answer is written.

        Args:
            visit: What `begin` returned.
            status: The HTTP status, or the name of the gRPC status code.
        """
        ms = (time.monotonic() - visit.started) * 1000
        self.figures.leave(visit, status, ms)
        if self._write is not None:
            self._write(orjson.dumps(_line(visit, status, ms)))


def _line(visit: Visit, status: int | str, ms: float) -> dict[str, Any]:
    return {
        "time": now(),
        "protocol": visit.protocol,
        "client": visit.client,
        "method": visit.method,
        "path": visit.path[:PATH_MOST].encode("utf-8", "replace").decode(),
        "status": status,
        "ms": round(ms, 3),
        "queue_ms": round(visit.queue_ms, 3),
        "compute_ms": round(visit.compute_ms, 3),
        "model": visit.model or None,
        "version": visit.version or None,
        "bytes_in": visit.bytes_in,
        "bytes_out": visit.bytes_out,
    }
