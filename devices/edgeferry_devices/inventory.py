"""The devices that the user named, in ``devices.toml``, and the groups that they are in.

::

    [devices.attic]
    host = "attic.local"
    user = "pi"
    tags = ["camera"]

    [groups]
    house = ["attic", "@garden"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeferry_devices.inside import check_inside
from edgeferry_devices.places import config_dir
from edgeferry_runtime import toml
from edgeferry_runtime.errors import OutputExistsError, UnknownNameError, UsageError
from edgeferry_runtime.whole import write_private

LOCAL = "local"
ADB = "adb:"
"""What an address over adb begins with, such as ``adb:R58M123ABC`` or ``adb:192.168.1.5:5555``."""
ALL = "all"
"""What stands for every device of the inventory."""
DEFAULT_ROOT = "~/.local/share/edgeferry"
ADB_ROOT = "/data/local/tmp/edgeferry"
"""The same over adb: what ``adb shell`` may write to and execute from."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]*")
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\[\]-]{0,127}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: A name, an alias of ``~/.ssh/config``, an IP address without brackets, or `ADB` and a serial.
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
    """Read ``[user@]host[:port]``, where an IPv6 address with a port stands in brackets, or ``adb:SERIAL``.

    Raises:
        UsageError: If it is none.
    """
    if text.startswith(ADB):
        return _adb_address(text)
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


def _adb_address(text: str) -> Address:
    if not _SERIAL.fullmatch(text.removeprefix(ADB)):
        raise UsageError(f"address {text!r}", "is no serial of adb", "give one that adb devices lists, as adb:SERIAL")
    return Address(text)


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
        root: Its folder there; ``~`` is the home of the account. See `folder`.
        password_env: The environment variable that holds its password; the password itself is never stored.
        jump: The hosts to go through, ``[user@]host[:port]`` joined by commas; empty leaves it to ``~/.ssh/config``.
        tags: What the user tagged it with.
        source: The file that it was imported from; empty where the user added it.
        source_tags: The groups that it was in there.
        inside: The distribution inside it where everything executes, such as ``proot:debian``; empty for itself.
    """

    name: str
    host: str
    user: str = ""
    port: int = 0
    key: str = ""
    root: str = DEFAULT_ROOT
    password_env: str = ""
    jump: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""
    source_tags: tuple[str, ...] = ()
    inside: str = ""

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address(self.host, self.user, self.port)

    @property
    def serial(self) -> str:
        """Its serial where it is reached over adb; empty where over SSH."""
        return self.host.removeprefix(ADB) if self.host.startswith(ADB) else ""

    @property
    def folder(self) -> str:
        """Its folder there; over adb there is no home, and the default one is another."""
        return ADB_ROOT if self.serial and self.root == DEFAULT_ROOT else self.root

    @property
    def all_tags(self) -> tuple[str, ...]:
        """Its tags, whoever gave them, without those that come twice."""
        return tuple(dict.fromkeys((*self.tags, *self.source_tags)))


@dataclass(frozen=True)
class Inventory:
    """What the file holds.

    Attributes:
        devices: The devices by name, without ``local``.
        groups: What each group lists: names of devices, and ``@name`` for what another group or tag stands for.
    """

    devices: Mapping[str, Entry] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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


def check_tag(name: str) -> str:
    """Return the name of a tag or group, without its ``@``, if it is one.

    Raises:
        UsageError: If it is not, or means something else.
    """
    if not _NAME.fullmatch(name):
        fix = "use letters, digits, dot, dash and underscore, a letter or digit first"
        raise UsageError(f"tag {name!r}", "is not a name", fix)
    if name in (LOCAL, ALL):
        raise UsageError(f"tag {name!r}", "has a meaning of its own", "give another name")
    return name


def check_jump(jump: str) -> str:
    """Return jump hosts if each of them is ``[user@]host[:port]``.

    Raises:
        UsageError: If one is not.
    """
    for place in jump.split(",") if jump else ():
        parse_address(place)
    return jump


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


def check_adb(entry: Entry) -> None:
    """Refuse what has no meaning for a device over adb.

    Raises:
        UsageError: Naming it.
    """
    options = {"key": entry.key, "password-env": entry.password_env, "jump": entry.jump, "inside": entry.inside}
    wanted = [f"--{option}" for option, value in options.items() if value]
    if entry.serial and wanted:
        raise UsageError(f"device {entry.name}", f"is reached over adb, which takes no {wanted[0]}", "leave it out")
    if entry.serial and entry.root.startswith("~") and entry.root != DEFAULT_ROOT:
        raise UsageError(f"--root {entry.root!r}", "has no home to begin in over adb", "give an absolute path")


def inventory_path() -> Path:
    """Return where the inventory lies."""
    return config_dir() / "devices.toml"


def load() -> Inventory:
    """Read the inventory; what an older version wrote is read too.

    Raises:
        UsageError: If the file is damaged.
    """
    path = inventory_path()
    try:
        data = toml.parse(path.read_text(encoding="utf-8"))
        devices = {name: _entry(name, values) for name, values in data.get("devices", {}).items()}
        return Inventory(devices, {name: _group(name, listed) for name, listed in data.get("groups", {}).items()})
    except (FileNotFoundError, NotADirectoryError):
        return Inventory()
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UsageError(path, f"cannot be read ({error})", "correct or remove the file") from error


def read() -> dict[str, Entry]:
    """Return the devices by name, without ``local``; see `load`."""
    return dict(load().devices)


def _entry(name: str, values: Mapping[str, Any]) -> Entry:
    kinds = {each.name: type(each.default) for each in fields(Entry) if each.name not in ("name", "host")}
    given: dict[str, Any] = {
        key: _strings(value) if kinds.get(key) is tuple else value for key, value in values.items()
    }
    for key, value in given.items():
        if key != "host" and (key not in kinds or not isinstance(value, kinds[key])):
            raise ValueError(f"device {name}: {key} = {value!r}")
    entry = Entry(name, **given)
    parse_address(str(entry.address))
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    check_root(entry.root)
    check_variable(entry.password_env)
    check_adb(entry)
    check_jump(entry.jump)
    check_inside(entry.inside)
    for tag in entry.all_tags:
        check_tag(tag)


def _group(name: str, listed: Any) -> tuple[str, ...]:
    check_tag(name)
    return _strings(listed)


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} is no list of names")
    return tuple(values)


def get(name: str) -> Entry:
    """Return one device, by its name or by its address.

    Args:
        name: A name of the inventory, or ``user@host[:port]`` or ``adb:SERIAL`` for a device that has none.

    Raises:
        UnknownNameError: If there is none of this name.
        UsageError: If it is an address that cannot be one.
    """
    if "@" in name or name.startswith(ADB):
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
        UsageError: If its name is not a name, or is ``local`` or ``all``.
        OutputExistsError: If there is one of this name.
    """
    _check(entry)
    found = load()
    if check_name(entry.name) in (LOCAL, ALL):
        raise UsageError(f"device {entry.name}", "is built in", "give another name")
    if entry.name in found.devices:
        raise OutputExistsError(f"device {entry.name}", "exists", f"remove it first: ferry device remove {entry.name}")
    save(replace(found, devices={**found.devices, entry.name: entry}))


def update(entry: Entry) -> None:
    """Write a device anew that is there already.

    Raises:
        UnknownNameError: If there is none of this name.
    """
    get(entry.name)
    found = load()
    save(replace(found, devices={**found.devices, entry.name: entry}))


def remove(name: str) -> Entry:
    """Remove a device from the inventory and from its groups; nothing on the device itself changes.

    Raises:
        UsageError: If it is ``local``.
        UnknownNameError: If there is none of this name.
    """
    if name == LOCAL:
        raise UsageError("device local", "is built in", "leave it; it costs nothing")
    found = load()
    if name not in found.devices:
        raise UnknownNameError("device", name, [LOCAL, *found.devices])
    devices = {key: value for key, value in found.devices.items() if key != name}
    groups = {key: tuple(member for member in listed if member != name) for key, listed in found.groups.items()}
    save(Inventory(devices, groups))
    return found.devices[name]


def save(inventory: Inventory) -> None:
    """Write the inventory, for this account alone and in one step."""
    data: dict[str, Any] = {"devices": {name: _values(entry) for name, entry in sorted(inventory.devices.items())}}
    if inventory.groups:
        data["groups"] = {name: list(listed) for name, listed in sorted(inventory.groups.items())}
    write_private(inventory_path(), "# Written by: ferry device\n\n" + toml.dump(data))


def _values(entry: Entry) -> dict[str, Any]:
    values = {key: value for key, value in vars(entry).items() if key != "name" and value}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
