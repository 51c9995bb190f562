"""Boards that announce themselves in this network by mDNS (RFC 6762): name, addresses, and the port of SSH."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeferry_devices.inventory import parse_address
from edgeferry_runtime.errors import EdgeferryError, MissingExtraError, UsageError

if TYPE_CHECKING:
    import zeroconf

SSH = "_ssh._tcp.local."
SERVICES = (SSH, "_sftp-ssh._tcp.local.", "_workstation._tcp.local.")
"""What a Raspberry Pi with Avahi and other Linux boards announce; the last one tells no port of SSH."""


@dataclass(frozen=True)
class Board:
    """A machine that announced itself; what it says of itself is not proven.

    Attributes:
        host: Its name, such as ``raspberrypi.local``.
        addresses: Its IP addresses.
        port: The port of SSH; 22 where it did not announce SSH.
        services: What it announced, such as ``ssh``.
    """

    host: str
    addresses: tuple[str, ...]
    port: int
    services: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for the inventory."""
        return self.host.partition(".")[0]


def discover(seconds: float = 3.0, interfaces: Sequence[str] = ()) -> list[Board]:
    """Ask the network who is there.

    Args:
        seconds: How long to listen.
        interfaces: The addresses of this machine's interfaces to ask on; all where empty.

    Returns:
        The boards, by name. Names that could be no host's are left out.

    Raises:
        MissingExtraError: If python-zeroconf is not installed.
        EdgeferryError: If this machine has no network to ask.
    """
    try:
        import zeroconf
    except ModuleNotFoundError as error:
        raise MissingExtraError("ferry device discover", "devices", "zeroconf") from error

    try:
        _check_ours(interfaces)
        asked = zeroconf.Zeroconf(interfaces=list(interfaces) or zeroconf.InterfaceChoice.All)
    except (OSError, ValueError) as error:
        reason = f"cannot be asked by mDNS ({error})"
        raise EdgeferryError(
            "the network", reason, "check that this machine is in the network of the boards"
        ) from error
    with asked:
        return boards(_listen(asked, seconds))


def _check_ours(addresses: Sequence[str]) -> None:
    """Bind to each address once: zeroconf leaves sockets open where it cannot."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))


def _listen(asked: zeroconf.Zeroconf, seconds: float) -> list[Any]:
    """Return what was announced, each service resolved within what is left of the time, but for half a second."""
    import zeroconf

    heard: dict[str, str] = {}

    def hear(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        heard[name] = service_type

    deadline = time.monotonic() + seconds
    browser = zeroconf.ServiceBrowser(asked, list(SERVICES), handlers=[hear])
    time.sleep(seconds)
    browser.cancel()
    found = []
    for name, kind in sorted(heard.items()):
        info = zeroconf.ServiceInfo(kind, name)
        if info.request(asked, 1000 * max(0.5, deadline - time.monotonic())):
            found.append(info)
    return found


def boards(services: Iterable[Any]) -> list[Board]:
    """Put services together by host."""
    hosts: dict[str, list[Any]] = {}
    for service in services:
        host = (service.server or "").rstrip(".")
        if _is_host(host):
            hosts.setdefault(host, []).append(service)
    return [_board(host, told) for host, told in sorted(hosts.items())]


def _is_host(name: str) -> bool:
    try:
        return parse_address(name).host == name
    except UsageError:
        return False


def _board(host: str, services: Sequence[Any]) -> Board:
    ports = [service.port for service in services if service.type == SSH]
    addresses = dict.fromkeys(a for service in services for a in service.parsed_scoped_addresses())
    kinds = sorted({service.type.partition(".")[0].lstrip("_") for service in services})
    return Board(host, tuple(addresses), ports[0] if ports else 22, tuple(kinds))
