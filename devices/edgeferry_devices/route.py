"""The way to a device: what the user said, completed by ``~/.ssh/config``."""

from __future__ import annotations

import getpass
import glob
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_devices import hostkeys
from edgeferry_devices.inventory import Entry
from edgeferry_runtime.errors import MissingExtraError, UsageError

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
    """

    device: str
    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    only_keys: bool
    known_as: str
    known_hosts: tuple[Path, ...]


def resolve(entry: Entry) -> Route:
    """Complete an entry of the inventory; what the entry says wins over ``~/.ssh/config``.

    Raises:
        UsageError: If the configuration is damaged, or asks for what is not supported.
    """
    config = _config(entry.host)
    _refuse_unsupported(entry, config)
    host = str(config.get("hostname", entry.host))
    port = entry.port or _port(config)
    known_as = str(config["hostkeyalias"]) if "hostkeyalias" in config else hostkeys.lookup_name(host, port)
    keys, only_keys = _keys(entry, config)
    return Route(
        device=entry.name,
        host=host,
        port=port,
        user=entry.user or str(config.get("user", "")) or getpass.getuser(),
        keys=keys,
        only_keys=only_keys,
        known_as=known_as,
        known_hosts=_known_hosts(config),
    )


def _config(host: str) -> Mapping[str, Any]:
    try:
        import paramiko
    except ModuleNotFoundError as error:
        raise MissingExtraError("a device over SSH", "devices", "paramiko") from error

    path = Path.home() / ".ssh" / "config"
    if not path.is_file():
        return {}
    try:
        found: Mapping[str, Any] = paramiko.SSHConfig.from_text("\n".join(_lines(path, "Host *", 0))).lookup(host)
    except (paramiko.SSHException, OSError, ValueError, ImportError) as error:
        raise UsageError(path, f"cannot be read ({error})", "correct the file") from error
    return found


def _lines(path: Path, block: str, depth: int) -> Iterator[str]:
    """Yield a file's lines with those of the files that it includes, which paramiko leaves out.

    Args:
        path: The file.
        block: The ``Host`` or ``Match`` line that holds where it is included; it holds again after each inclusion.
        depth: How many inclusions deep it is; ssh_config(5) allows 16.
    """
    if depth > 16:
        raise ValueError(f"{path} is included more than 16 deep")
    for line in path.read_text(encoding="utf-8").splitlines():
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() in ("host", "match"):
            block = line
        if keyword.lower() != "include":
            yield line
            continue
        for pattern in shlex.split(value):
            where = str(Path.home() / ".ssh" / Path(pattern).expanduser())
            for name in sorted(glob.glob(where)):  # noqa: PTH207 - the pattern is absolute
                yield from _lines(Path(name), block, depth + 1)
        yield block


def _refuse_unsupported(entry: Entry, config: Mapping[str, Any]) -> None:
    for key, name in (("proxyjump", "ProxyJump"), ("proxycommand", "ProxyCommand")):
        value = config.get(key)
        if value and str(value).lower() != "none":
            reason = f"~/.ssh/config reaches {entry.host} by {name} {value}, which is not supported yet"
            raise UsageError(f"device {entry.name}", reason, "give an address that can be reached directly")


def _port(config: Mapping[str, Any]) -> int:
    port = str(config.get("port", "22"))
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise UsageError("~/.ssh/config", f"{port!r} is no port", "correct the file")
    return int(port)


def _keys(entry: Entry, config: Mapping[str, Any]) -> tuple[tuple[Path, ...], bool]:
    if entry.key:
        return (Path(entry.key).expanduser(),), True
    named = tuple(Path(str(name)).expanduser() for name in config.get("identityfile", ()))
    if named:
        return named, str(config.get("identitiesonly", "no")).lower() == "yes"
    return tuple(Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES), False


def _known_hosts(config: Mapping[str, Any]) -> tuple[Path, ...]:
    named = str(config.get("userknownhostsfile", "")).split()
    if not named:
        return hostkeys.openssh_paths()
    return (*(Path(name).expanduser() for name in named if name != "none"), hostkeys.openssh_paths()[1])
