"""An HTTP port: uvicorn, with its signals, its log and its patience replaced by ours."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.rest.protocol import Protocol
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import Telling

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted."""

AT_ONCE = 100
"""Connections that asyncio accepts before it goes on with something else."""


@dataclass(frozen=True)
class Place:
    """Where to listen.

    Attributes:
        host: A name or address of this machine.
        port: The port; 0 takes a free one.
        option: What the user says it with.
    """

    host: str
    port: int
    option: str = "--port"


class _Server(uvicorn.Server):
    """uvicorn's server, that leaves signals alone and has a deadline for TLS."""

    def __init__(self, config: uvicorn.Config, protocol: Callable[..., Protocol], secure: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._protocol, self._secure = protocol, secure
        self.servers = []

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        make = partial(self._protocol, config=self.config, server_state=self.server_state, app_state={})
        loop, secure = asyncio.get_running_loop(), self._secure
        for listening in sockets or []:
            self.servers.append(await loop.create_server(make, sock=listening, backlog=AT_ONCE, **secure))
            listening.listen(BACKLOG)
        self.started = True


@contextlib.asynccontextmanager
async def http_listener(
    app: ASGIApp, telling: Telling, limits: Limits, listening: socket.socket, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve an application; at the end, finish what is in flight.

    Args:
        app: The application.
        telling: Hears of what is refused before there is a request.
        limits: What is let in.
        listening: What `bind` returned.
        context: TLS; None speaks plain text.

    Yields:
        The port.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=Protocol,
        ws="none",
        timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=limits.drain_s,  # type: ignore[arg-type]
    )
    secure = {"ssl": context, "ssl_handshake_timeout": limits.head_s} if context else {}
    server = _Server(config, partial(Protocol, limits, telling), secure)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        await running


def bind(place: Place) -> socket.socket:
    """Take a port, without answering there yet: who comes early waits.

    Raises:
        EdgeferryError: If it cannot be taken.
    """
    family, address = _resolve(place)
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)  # or another server could take the same port meanwhile
    except OSError as error:
        listening.close()
        raise _untakeable(place, error) from error
    return listening


def _resolve(place: Place) -> tuple[int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        fix = "give a name or address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
        raise EdgeferryError(f"--host {place.host}", f"is unknown ({error.strerror})", fix) from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _untakeable(place: Place, error: OSError) -> EdgeferryError:
    if error.errno == errno.EADDRNOTAVAIL:
        fix = "give one such as 127.0.0.1, or 0.0.0.0 for all"
        return EdgeferryError(f"--host {place.host}", "is no address of this machine", fix)
    what = f"{place.option} {place.port}"
    if error.errno == errno.EADDRINUSE:
        return EdgeferryError(what, f"is taken on {place.host}", "give another one, or 0 for one that is free")
    if error.errno == errno.EACCES:
        return EdgeferryError(what, "may only be taken by root", "give one from 1024 on")
    return EdgeferryError(what, f"cannot be listened on at {place.host} ({error.strerror})", "give another one")
