"""The gRPC port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.rpc import health, inference, model_status, prediction
from edgeferry_runtime.serving.rpc.calls import House, generic_handler
from edgeferry_runtime.serving.rpc.patience import Streams
from edgeferry_runtime.serving.rpc.room import Room
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Address, Limits, Settings
from edgeferry_runtime.serving.telling import Telling

SERVICES = (inference, prediction, model_status, health)

AT_ONCE = 64
"""Calls at the same time, open streams among them; more than that many messages would fill a small machine's memory."""

FREE_AT_ONCE = 16
"""Calls at the same time that need no token, beside those."""

OF_A_CONNECTION = 32
"""Calls at the same time over one connection, which so cannot take every place."""

TOGETHER = 8
"""How many messages of the largest size all calls together may keep in memory once they have come."""


@contextlib.asynccontextmanager
async def grpc_listener(service: Service, telling: Telling, settings: Settings, port: int) -> AsyncIterator[int]:
    """Serve every gRPC service; at the end, finish what is in flight.

    Yields:
        The port.

    Raises:
        EdgeferryError: If the port cannot be taken.
    """
    streams = Streams()
    most = settings.limits.body_bytes * TOGETHER
    room, free = Room(AT_ONCE, most), Room(FREE_AT_ONCE, most)
    house = House(settings.limits, settings.address.token, telling, streams, room, free)
    server = grpc.aio.server(
        handlers=[generic_handler(module.SERVICE, module.methods(service), house) for module in SERVICES],
        options=_options(settings.limits),
    )
    bound = _bind(server, settings.address, port)
    await server.start()
    try:
        yield bound
    finally:
        streams.end()
        await server.stop(settings.limits.drain_s)


def _options(limits: Limits) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments.

    Compressed requests are refused, since not every gRPC bounds what they are unpacked to. Two servers never share a
    port, as gRPC would let them. A client is held to its number of calls without gRPC's protection from overload, which
    counts those that have just ended and so refuses clients that keep to it. A connection ends that does not begin,
    that rests for long, or whose client is silent.
    """
    return [
        ("grpc.max_concurrent_streams", OF_A_CONNECTION),
        ("grpc.http.overload_protection", 0),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.so_reuseport", 0),
        ("grpc.server_handshake_timeout_ms", int(limits.head_s * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.idle_s * 1000)),
        ("grpc.keepalive_time_ms", int(limits.idle_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.body_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: Any, address: Address, port: int) -> int:
    host = f"[{address.host}]" if ":" in address.host else address.host
    where = f"{host}:{port}"
    try:
        if not address.certificate or not address.key:
            return int(server.add_insecure_port(where))
        pair = (address.key.read_bytes(), address.certificate.read_bytes())
        return int(server.add_secure_port(where, grpc.ssl_server_credentials([pair])))
    except RuntimeError as error:
        raise EdgeferryError(where, "cannot be listened on", "give another --grpc-port") from error
