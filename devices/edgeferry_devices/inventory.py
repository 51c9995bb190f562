"""The devices that the user named, in ``devices.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeferry_devices.places import config_dir, write_private
from edgeferry_runtime import toml
from edgeferry_runtime.errors import OutputExistsError, UnknownNameError, UsageError

LOCAL = "local"
DEFAULT_ROOT = "~/.local/share/edgeferry"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]*")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: A name, an alias of ``~/.ssh/config``, or an IP address without brackets.
        user: The account; empty leaves it to ``~/.ssh/config``, then to this account's name.
        port: The port; 0 leaves it to ``~/.ssh/config``, then to 22.
    """

    host: str
    user: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


def parse_address(text: str) -> Address:
    """Read ``[user@]host[:port]``; an IPv6 address with a port stands in brackets.

    Raises:
        UsageError: If it is none.
    """
    user, at, place = text.rpartition("@")
    host, port = _split_port(place)
    good_host = _HOST.fullmatch(host) or (":" in host and _IPV6.fullmatch(host))
    if not good_host or (at and not _USER.fullmatch(user)):
        raise UsageError(
            f"address {text!r}", "is not user@host or user@host:port", "give one such as pi@raspberrypi.local"
        )
    if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise UsageError(f"address {text!r}", f"{port!r} is no port", "give a number from 1 to 65535")
    return Address(host, user, int(port or 0))


def _split_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return "", ""
        return host, (rest[1:] or "?") if rest else ""
    if place.count(":") == 1:
        host, _, port = place.partition(":")
        return host, port or "?"
    return place, ""


@dataclass(frozen=True)
class Entry:
    """One device of the inventory.

    Attributes:
        name: What the user calls it.
        host: See `Address`.
        user: See `Address`.
        port: See `Address`.
        key: A private key file; empty leaves it to ``~/.ssh/config`` and the default identities.
        root: Its folder there; ``~`` is the home of the account.
        password_env: The environment variable that holds its password; the password itself is never stored.
    """

    name: str
    host: str
    user: str = ""
    port: int = 0
    key: str = ""
    root: str = DEFAULT_ROOT
    password_env: str = ""

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address(self.host, self.user, self.port)


def check_name(name: str) -> str:
    """Return a device's name if it is one.

    Raises:
        UsageError: If it is not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"device name {name!r}",
            "is not a name",
            "use letters, digits, dot, dash and underscore, a letter or digit first",
        )
    return name


def check_root(root: str) -> str:
    """Return a device's folder if it is an absolute path, or one below ``~``.

    Raises:
        UsageError: If it is not.
    """
    if root.startswith(("/", "~/")) and root.isprintable() and ".." not in root.split("/") and root.strip("~/"):
        return root.rstrip("/")
    raise UsageError(
        f"--root {root!r}", "is not a folder of our own", "give an absolute path, or one that begins with ~/"
    )


def check_variable(name: str) -> str:
    """Return the name of an environment variable if it is one; empty stands for none.

    Raises:
        UsageError: If it is not.
    """
    if name and not _VARIABLE.fullmatch(name):
        reason = (
            "is no name of an environment variable in capitals"  # what was given may be a password: it is not shown
        )
        raise UsageError("--password-env", reason, "give a name such as PI_PASSWORD, not the password itself")
    return name


def inventory_path() -> Path:
    """Return where the inventory lies."""
    return config_dir() / "devices.toml"


def read() -> dict[str, Entry]:
    """Return the devices by name, without ``local``.

    Raises:
        UsageError: If the file is damaged.
    """
    path = inventory_path()
    try:
        data = toml.parse(path.read_text(encoding="utf-8"))
        return {name: _entry(name, values) for name, values in data.get("devices", {}).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UsageError(path, f"cannot be read ({error})", "correct or remove the file") from error


def _entry(name: str, values: Mapping[str, Any]) -> Entry:
    kinds = {field.name: type(field.default) for field in fields(Entry) if field.name not in ("name", "host")}
    for key, value in values.items():
        if key != "host" and (key not in kinds or not isinstance(value, kinds[key])):
            raise ValueError(f"device {name}: {key} = {value!r}")
    entry = Entry(name, **values)
    parse_address(str(entry.address))
    check_root(entry.root)
    check_variable(entry.password_env)
    return entry


def get(name: str) -> Entry:
    """Return one device, by its name or by its address.

    Args:
        name: A name of the inventory, or ``user@host[:port]`` for a device that has none.

    Raises:
        UnknownNameError: If there is none of this name.
        UsageError: If it is an address that cannot be one.
    """
    if "@" in name:
        place = parse_address(name)
        return Entry(name, place.host, place.user, place.port)
    devices = read()
    if name not in devices:
        raise UnknownNameError("device", name, [LOCAL, *devices], f"or add it: ferry device add {_example(name)}")
    return devices[name]


def _example(name: str) -> str:
    """Return the arguments that would add a device, as far as its name tells them."""
    host = name if _HOST.fullmatch(name) and "." in name else "HOST"
    short = name.partition(".")[0]
    return f"{short if _NAME.fullmatch(short) else 'NAME'} USER@{host}"


def add(entry: Entry) -> None:
    """Add a device.

    Raises:
        UsageError: If its name is not a name, or is ``local``.
        OutputExistsError: If there is one of this name.
    """
    check_root(entry.root)
    check_variable(entry.password_env)
    devices = read()
    if check_name(entry.name) == LOCAL:
        raise UsageError("device local", "is built in", "give another name")
    if entry.name in devices:
        raise OutputExistsError(f"device {entry.name}", "exists", f"remove it first: ferry device remove {entry.name}")
    _write({**devices, entry.name: entry})


def remove(name: str) -> Entry:
    """Remove a device from the inventory; nothing on the device itself changes.

    Raises:
        UsageError: If it is ``local``.
        UnknownNameError: If there is none of this name.
    """
    if name == LOCAL:
        raise UsageError("device local", "is built in", "leave it; it costs nothing")
    entry = get(name)
    _write({key: value for key, value in read().items() if key != name})
    return entry


def _write(devices: Mapping[str, Entry]) -> None:
    data = {name: _values(entry) for name, entry in sorted(devices.items())}
    write_private(inventory_path(), "# Written by: ferry device add\n\n" + toml.dump({"devices": data}))


def _values(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if key != "name" and value}
