"""The TCP connection to a server, and why there is none."""

from __future__ import annotations

import socket

from edgeferry_devices.route import Route
from edgeferry_runtime.errors import DeviceTimeoutError, UnreachableError


class PromptSocket(socket.socket):
    """Tells the other end at once what has come: a server holds its second small packet until the first is known."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive, and have the kernel acknowledge what comes next without its usual wait of 40 ms."""
        received = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return received


def open_socket(route: Route, connect: float, idle: float) -> PromptSocket:
    """Connect.

    Args:
        route: The way.
        connect: Seconds to wait for it.
        idle: Seconds to wait for the acknowledgement of what was sent.

    Raises:
        UnreachableError: If there is no such host, or nothing listens.
        DeviceTimeoutError: If it does not answer.
    """
    place = f"{route.host} port {route.port}"
    try:
        sock = socket.create_connection((route.host, route.port), timeout=connect)
    except socket.gaierror as error:
        raise UnreachableError(
            route.device, f"no host is named {route.host!r}", "check the name or use the address"
        ) from error
    except TimeoutError as error:
        fix = "check that it is switched on and in this network"
        raise DeviceTimeoutError(route.device, f"{place} did not answer within {connect:g} s", fix) from error
    except ConnectionRefusedError as error:
        fix = "check the port, and that SSH is enabled there"
        raise UnreachableError(route.device, f"{place} refuses the connection", fix) from error
    except OSError as error:
        reason = f"{place} cannot be reached ({error.strerror or error})"
        raise UnreachableError(route.device, reason, "check the address and the network") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(idle * 1000))
    return PromptSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
