"""A server's life: load, listen, serve until told to stop, finish what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import ip_address

from edgeferry_runtime.serving.ending import Ending
from edgeferry_runtime.serving.lines import LineHandler, Lines
from edgeferry_runtime.serving.notify import Notify
from edgeferry_runtime.serving.pulse import Pulse
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.app import make_app, make_management
from edgeferry_runtime.serving.rest.guard import Guard
from edgeferry_runtime.serving.rest.listener import Place, bind, http_listener
from edgeferry_runtime.serving.rpc.server import grpc_listener
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Address, Settings
from edgeferry_runtime.serving.telling import Telling
from edgeferry_runtime.serving.tls import make_context

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        service: Its heart.
        http: The port of HTTP.
        grpc: The port of gRPC; None where it serves none.
        management: The port of the management calls, on loopback; None where it serves none.
    """

    service: Service
    http: int
    grpc: int | None
    management: int | None


async def serve(settings: Settings, lines: Lines, announce: Callable[[Serving], object]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        settings: What to serve, and where.
        lines: Takes what is told on stderr.
        announce: Called once it listens.

    Raises:
        EdgeferryError: If a model cannot be served, or a port cannot be taken.
    """
    sys.setswitchinterval(0.0005)  # a thread whose model is done gets Python's lock soon
    logging.getLogger().addHandler(LineHandler(lines))
    for name in ("grpc", "python_multipart"):  # any client can provoke what these say, and is told the reason itself
        logging.getLogger(name).propagate = False
    life = asyncio.create_task(_live(settings, lines, announce))
    Ending(settings.limits.drain_s, lines, life)
    with contextlib.suppress(asyncio.CancelledError):
        await life


async def _live(settings: Settings, lines: Lines, announce: Callable[[Serving], object]) -> None:
    """Serve until cancelled, be it in the middle of loading."""
    with contextlib.closing(Notify(os.environ)) as notify, contextlib.ExitStack() as last:
        async with serving(settings, lines) as found:
            gc.freeze()  # what is there now stays, and need not be looked through again and again
            announce(found)
            notify.tell("READY=1")
            pulse = Pulse(found.service.repository, settings.limits.timeout_s)
            last.callback(asyncio.create_task(notify.watch(pulse.beats)).cancel)
            try:
                await asyncio.Event().wait()
            finally:
                notify.tell("STOPPING=1")


@contextlib.asynccontextmanager
async def serving(settings: Settings, lines: Lines | None = None) -> AsyncIterator[Serving]:
    """Load the models and answer; at the end, finish what is in flight.

    Args:
        settings: What to serve, and where.
        lines: Takes what is told on stderr, such as what was loaded, and the access log; None keeps nothing.

    Raises:
        EdgeferryError: If a model cannot be served, or a port cannot be taken.
    """
    address, limits = settings.address, settings.limits
    service = Service(Repository(settings, lines.say if lines else bool), limits)
    telling = Telling(lines.write if lines and settings.access_log else None)
    telling.figures.watch(service.repository, lambda: lines.dropped if lines else 0)
    context = make_context(address.certificate, address.key) if address.certificate and address.key else None
    async with contextlib.AsyncExitStack() as opened:
        sock = opened.enter_context(bind(Place(address.host, address.port)))
        other = opened.enter_context(bind(_management(address))) if address.management_port is not None else None
        opened.push_async_callback(service.repository.close)
        await service.repository.start()
        ports = _Ports()
        opened.push_async_callback(ports.close)
        app = Guard(make_app(service, telling), service, telling, address.token, _is_local(sock))
        http, management, grpc = await ports.open(http_listener(app, telling, limits, sock, context)), None, None
        if other is not None:
            app = Guard(make_management(service, telling), service, telling, address.token, _is_local(other))
            management = await ports.open(http_listener(app, telling, limits, other))
        if address.grpc_port is not None:
            grpc = await ports.open(grpc_listener(service, telling, settings, address.grpc_port))
        opened.callback(_stop, service)
        yield Serving(service, http, grpc, management)


class _Ports:
    """What listens, and is closed together, so that each has the whole time to finish what is in flight."""

    def __init__(self) -> None:
        self._opened: list[contextlib.AsyncExitStack] = []

    async def open(self, listener: contextlib.AbstractAsyncContextManager[int]) -> int:
        """Listen, and return the port."""
        stack = contextlib.AsyncExitStack()
        port = await stack.enter_async_context(listener)
        self._opened.append(stack)
        return port

    async def close(self) -> None:
        """Listen no more, and finish what is in flight."""
        await asyncio.gather(*(stack.aclose() for stack in self._opened))


def _management(address: Address) -> Place:
    return Place(LOOPBACK, address.management_port or 0, "--management-port")


def _is_local(listening: socket.socket) -> bool:
    return ip_address(listening.getsockname()[0]).is_loopback


def _stop(service: Service) -> None:
    service.stopping = True
    service.repository.stop()
