"""One SSH connection, opened by hand: every wait has a deadline, and the host key is checked before any secret.

`paramiko.SSHClient` is not used: its commands hang when several threads share a connection.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeferry_devices import conduits, hostkeys
from edgeferry_devices.asking import Secrets
from edgeferry_devices.authentication import authenticate
from edgeferry_devices.conduits import Conduit
from edgeferry_devices.faults import faults
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.route import Route
from edgeferry_devices.tcp import PromptSocket, open_socket
from edgeferry_runtime.errors import AuthenticationError, DeviceTimeoutError, UnreachableError
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    import paramiko

    from edgeferry_devices.transport import Transport

FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class Deadlines:
    """How long to wait, in seconds.

    Attributes:
        connect: For the TCP connection.
        banner: For the server's first line and the key exchange.
        auth: For the answer to one key.
        channel: For opening a channel.
        idle: For the peer's acknowledgement of what was sent, and for one SFTP answer.
        attempts: How often to try when the server closes before its first line, as a busy one does.
    """

    connect: float = 10.0
    banner: float = 15.0
    auth: float = 30.0
    channel: float = 15.0
    idle: float = 30.0
    attempts: int = 6


def connect(
    route: Route, deadlines: Deadlines | None = None, secrets: Secrets | None = None, ahead: bool = True
) -> Transport:
    """Connect, check the host key, and authenticate; at each jump host on the way first.

    Args:
        route: The way.
        deadlines: How long to wait.
        secrets: Where passphrases and passwords come from; without it nobody is asked.
        ahead: Whether to ask for a session along with the first key: a round trip less, since one is needed next.

    Returns:
        The connection; closing it ends what leads to it.

    Raises:
        UnreachableError: If there is no such host, nothing listens, or it is no SSH server.
        DeviceTimeoutError: If it does not answer.
        HostKeyError: If its key is unknown, changed or revoked.
        AuthenticationError: If it takes none of the keys, and no password.
    """
    limits, asked = deadlines or Deadlines(), secrets or Secrets()
    trust = hostkeys.trusted(route.known_as, route.known_hosts)
    transport = _handshake(route, limits, asked, [key.kind for key in trust if not key.revoked])
    with undo_on_error(transport.close):
        hostkeys.check(route.device, _shown(transport), trust)
        transport.opens_ahead = ahead
        if _entered(transport, route, asked):
            return transport
    transport.close()
    return connect(route, limits, asked, ahead=False)


def _entered(transport: Transport, route: Route, secrets: Secrets) -> bool:
    """Authenticate; False where a server hung up that took it amiss to be asked for more than it had allowed yet."""
    try:
        with faults(route.device, "authenticating"):
            authenticate(transport, route, secrets)
    except (AuthenticationError, UnreachableError):
        if transport.is_active() or not transport.went_ahead:
            raise
        return False
    return True


def fetch_host_key(
    route: Route, deadlines: Deadlines | None = None, secrets: Secrets | None = None, kinds: Sequence[str] = ()
) -> HostKey:
    """Return the key that a server shows, without authenticating there; see `connect` for what is raised."""
    transport = _handshake(route, deadlines or Deadlines(), secrets or Secrets(), kinds)
    try:
        return _shown(transport)
    finally:
        transport.close()


def _shown(transport: paramiko.Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _handshake(route: Route, limits: Deadlines, secrets: Secrets, kinds: Sequence[str]) -> Transport:
    """Open a transport; a server that is busy with others (MaxStartups) closes at once and is asked again."""
    import paramiko

    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    for attempt in range(limits.attempts):
        line = _line(route, limits, secrets)
        try:
            return _start(line, limits, kinds)
        except TimeoutError as error:
            raise _slow(route) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            line.close()
            if "timeout" in str(error).lower() or "timed out" in str(error).lower():
                raise _slow(route) from error
            if isinstance(line, Conduit) and (complaint := line.complaint()):
                raise UnreachableError(route.device, complaint, "correct it, or what it needs") from error
            if "banner" not in str(error) or attempt + 1 == limits.attempts:
                raise _no_server(route, error) from error
        time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - so that many do not come back at once
    raise AssertionError("unreachable")


def _line(route: Route, limits: Deadlines, secrets: Secrets) -> PromptSocket | Conduit:
    if route.command:
        return conduits.by_command(route, limits.idle)
    if route.via:
        return conduits.through(route, connect(route.via, limits, secrets, ahead=False), limits.connect, limits.idle)
    return open_socket(route, limits.connect, limits.idle)


def _slow(route: Route) -> DeviceTimeoutError:
    reason = f"{route.host} port {route.port} took the connection and then said nothing"
    return DeviceTimeoutError(route.device, reason, "check that an SSH server listens on this port")


def _no_server(route: Route, error: Exception) -> UnreachableError:
    said = str(error).splitlines()[0][:200] if str(error) else "it closed the connection"
    reason = f"{route.host} port {route.port} does not speak SSH with us ({said})"
    return UnreachableError(route.device, reason, "check the port, and whether the server takes more connections")


def _start(sock: PromptSocket | Conduit, limits: Deadlines, kinds: Sequence[str]) -> Transport:
    from edgeferry_devices.transport import Transport

    transport = Transport(sock)
    transport.banner_timeout = transport.handshake_timeout = 2 * limits.banner
    transport.auth_timeout = limits.auth
    transport.channel_timeout = limits.channel
    options = transport.get_security_options()
    wanted = [s for kind in kinds for s in (RSA_SIGNATURES if kind == "ssh-rsa" else (kind,))]
    options.key_types = _first(wanted, options.key_types)
    options.ciphers = _first(FAST_CIPHERS, options.ciphers)
    with undo_on_error(transport.close):
        transport.start_client(timeout=limits.banner)
        if not transport.initial_kex_done:  # it returns without a word when the time is up
            raise TimeoutError
    transport.set_keepalive(15)
    return transport


def _first(wanted: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    """Move what is wanted to the front of what is offered."""
    return (*(w for w in dict.fromkeys(wanted) if w in offered), *(o for o in offered if o not in wanted))
