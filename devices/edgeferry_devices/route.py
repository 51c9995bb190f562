"""The way to a device: what the user said, completed by ``~/.ssh/config``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeferry_devices import hostkeys, sshconfig
from edgeferry_devices.inventory import Address, Entry, parse_address
from edgeferry_devices.sshconfig import Settings
from edgeferry_runtime.errors import UsageError

DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Route:
    """How to reach and enter a device.

    Attributes:
        device: Its name, for messages.
        host: The name or address to connect to.
        port: The port.
        user: The account.
        keys: Private key files to offer, in order.
        only_keys: True where the user said which key to use: then no other one is offered.
        known_as: The server's name in known_hosts files.
        known_hosts: OpenSSH's known_hosts files.
        via: The jump host to go through.
        command: The command whose standard input and output lead to the server.
        password_env: The environment variable that holds the password; empty where there is none.
    """

    device: str
    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    only_keys: bool
    known_as: str
    known_hosts: tuple[Path, ...]
    via: Route | None = None
    command: str = ""
    password_env: str = ""


def resolve(entry: Entry) -> Route:
    """Complete an entry of the inventory; what the entry says wins over ``~/.ssh/config``.

    Raises:
        UsageError: If the configuration is damaged, or asks for what is not supported.
    """
    return _complete(entry, entry.jump, ())


def _complete(entry: Entry, jump: str, seen: tuple[tuple[str, int], ...]) -> Route:
    """Complete an entry that is reached through `jump`, the hosts behind it being those `seen`."""
    found = sshconfig.read(entry.address, jump)
    place = found.host, found.port
    if place in seen:
        reason = f"{entry.host} jumps through itself"
        raise UsageError("~/.ssh/config", reason, "give the jump host a block of its own with: ProxyJump none")
    keys, only_keys = _keys(entry, found)
    return Route(
        device=entry.name,
        host=found.host,
        port=found.port,
        user=found.user,
        keys=keys,
        only_keys=only_keys,
        known_as=found.known_as or hostkeys.lookup_name(*place),
        known_hosts=_known_hosts(found),
        via=_via(found.jump, (*seen, place)) if found.jump else None,
        command=found.command,
        password_env=entry.password_env,
    )


def _via(jumps: str, seen: tuple[tuple[str, int], ...]) -> Route:
    """Return the way to the last of some jump hosts, which leads through those before it.

    It is called as ``ferry device trust`` takes it: ``user@host[:port]``.
    """
    before, _, last = jumps.rpartition(",")
    place = parse_address(last.strip().removeprefix("ssh://").rstrip("/"))
    route = _complete(Entry(str(place), place.host, place.user, place.port), before, seen)
    return replace(route, device=str(Address(place.host, route.user, place.port)))


def _keys(entry: Entry, found: Settings) -> tuple[tuple[Path, ...], bool]:
    if entry.key:
        return (Path(entry.key).expanduser(),), True
    default = tuple(Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES)
    return found.identities or default, found.identities_only


def _known_hosts(found: Settings) -> tuple[Path, ...]:
    if found.known_hosts is None:
        return hostkeys.openssh_paths()
    return (*found.known_hosts, hostkeys.openssh_paths()[1])
