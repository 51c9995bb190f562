"""Makes devices of Ansible's hosts: which of their variables count, and which are refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgeferry_devices.ansible import reading
from edgeferry_devices.ansible.hosts import ALL, UNGROUPED, Hosts
from edgeferry_devices.ansible.yaml_data import Sealed
from edgeferry_devices.inventory import ALL as EVERY
from edgeferry_devices.inventory import LOCAL, Address, Entry, check_jump, check_name, check_tag, parse_address
from edgeferry_runtime.errors import UsageError

HOST = ("ansible_host", "ansible_ssh_host")
PORT = ("ansible_port", "ansible_ssh_port")
USER = ("ansible_user", "ansible_ssh_user")
KEY = ("ansible_private_key_file", "ansible_ssh_private_key_file")
CONNECTION = ("ansible_connection",)
PASSWORD = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
OVER_SSH = ("", "ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh")
TEMPLATE = ("{{", "{%", "{#")


def devices(path: Path) -> tuple[list[Entry], list[str]]:
    """Read a host list, and return its hosts as devices, and what is to be said about it.

    Groups, with those above them, become tags. Where a variable has two names the last one wins, as in Ansible.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If a host cannot be a device, or a variable that counts is a template, sealed, or a password.
    """
    hosts = reading.read(path)
    for name in hosts.variables:
        _check_host(hosts, name)
    for name in hosts.groups.keys() - {ALL, UNGROUPED}:
        try:
            check_tag(name)
        except UsageError as error:
            raise UsageError(f"{hosts.where}: group {name!r}", f"is no tag here: {error.reason}", error.fix) from error
    found = [_Host(hosts, name, reading.variables(path, hosts, name)).device() for name in hosts.variables]
    return [entry for entry in found if entry], hosts.notes


def _check_host(hosts: Hosts, name: str) -> None:
    try:
        known = check_name(name) in (LOCAL, EVERY)
    except UsageError as error:
        raise UsageError(f"{hosts.where}: host {name!r}", "is no name of a device here", error.fix) from error
    if known:
        raise UsageError(f"{hosts.where}: host {name!r}", "has a meaning of its own here", "give it another name")


class _Host:
    """One host, and what holds for it.

    Args:
        hosts: The host list.
        name: Its name.
        variables: What holds for it.
    """

    def __init__(self, hosts: Hosts, name: str, variables: Mapping[str, Any]) -> None:
        self.hosts, self.name, self.variables = hosts, name, variables

    def device(self) -> Entry | None:
        """Return it as a device; None where it is not reached over SSH."""
        for variable in PASSWORD:
            if variable in self.variables:
                fix = "take it out: passwords are asked for, or come from ferry device add --password-env VARIABLE"
                self._refuse(variable, "is a password, which is never stored", fix)
        if (connection := self._text(CONNECTION)) not in OVER_SSH:
            self._note(f"left out, since its ansible_connection is {connection!r} and not SSH")
            return None
        address = self._address()
        tags = tuple(group for group in self.hosts.groups_of(self.name) if group not in (ALL, UNGROUPED))
        where = str(Path(self.hosts.where).absolute())
        return Entry(
            self.name,
            address.host,
            address.user,
            address.port,
            self._key(),
            jump=self._jump(),
            source=where,
            source_tags=tags,
        )

    def _address(self) -> Address:
        host, user, port = self._text(HOST) or self.name, self._text(USER), self._text(PORT)
        if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
            self._refuse(_last(self.variables, PORT), f"{port!r} is no port", "give a number from 1 to 65535")
        address = Address(host, user, int(port or 0))
        if not _is_address(address):
            name = _last(self.variables, (*HOST, *USER)) or HOST[0]
            self._refuse(name, f"{str(address)!r} is no address", "give a host name or an IP address")
        return address

    def _key(self) -> str:
        key = self._text(KEY)
        if not key:
            return ""
        path = Path(key).expanduser().absolute()
        if not path.is_file():
            self._note(f"there is no key {path} on this machine")
        return str(path)

    def _jump(self) -> str:
        """Return the jump hosts; of other options of ssh it is said that they are not taken up."""
        jump = ""
        for variable in ARGUMENTS:
            for option in _options(self._split(variable)):
                key, _, value = option.partition("=")
                if key.lower() == "proxyjump":
                    jump = "" if value.lower() == "none" else self._checked_jump(variable, value)
                elif key.lower() == "proxycommand":
                    self._refuse(variable, "has a ProxyCommand", "put that into ~/.ssh/config, where it is obeyed")
                else:
                    self._note(f"{variable}: {option} is not taken up; ~/.ssh/config is")
        return jump

    def _split(self, variable: str) -> list[str]:
        try:
            return shlex.split(self._text((variable,)))
        except ValueError as error:
            self._refuse(variable, f"cannot be read ({error})", "correct it")

    def _checked_jump(self, variable: str, jump: str) -> str:
        try:
            return check_jump(jump)
        except UsageError:
            self._refuse(variable, f"{jump!r} is no jump host", "give user@host or user@host:port")

    def _text(self, names: Sequence[str]) -> str:
        """Return a variable as text, empty where there is none."""
        name = _last(self.variables, names)
        value = self.variables.get(name)
        if value is None:
            return ""
        if isinstance(value, Sealed) or str(value).startswith("$ANSIBLE_VAULT"):
            self._refuse(name, "is sealed in a vault", "write the value itself")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self._refuse(name, f"is no text but {str(value)[:40]!r}", "put it in quotes")
        if any(mark in str(value) for mark in TEMPLATE):
            self._refuse(name, f"is the template {value!r}, and nothing is executed here", "write the value itself")
        return str(value)

    def _note(self, text: str) -> None:
        self.hosts.notes.append(f"host {self.name}: {text}")

    def _refuse(self, variable: str, reason: str, fix: str) -> NoReturn:
        raise UsageError(f"{self.hosts.where}: host {self.name}, {variable}", reason, fix)


def _is_address(address: Address) -> bool:
    try:
        return parse_address(str(address)) == address
    except UsageError:
        return False


def _last(variables: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the last of some names that has a value, empty where none has."""
    return next((name for name in reversed(names) if variables.get(name) is not None), "")


def _options(words: Sequence[str]) -> Iterator[str]:
    """Yield the options of an ssh command line as ``Name=value``; others as they stand."""
    left = iter(words)
    for word in left:
        flag, rest = word[:2], word[2:]
        if flag in ("-o", "-J"):
            value = (rest or next(left, "")).strip()
            name, equals, after = value.partition("=")
            pair = f"{name.strip()}={after.strip()}" if equals else "=".join(value.split(None, 1))
            yield f"ProxyJump={value}" if flag == "-J" else pair
        else:
            yield word
