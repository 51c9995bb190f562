"""Ansible's host lists in INI: hosts by line, ``[group]``, ``[group:children]``, ``[group:vars]``."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from typing import Any, NoReturn

from edgeferry_devices.ansible.hosts import ALL, UNGROUPED, Hosts
from edgeferry_devices.ansible.patterns import expand
from edgeferry_runtime.errors import UsageError

LONGEST_VALUE = 1000
"""Letters of a value that is looked at as a number or a list; a longer one is text."""

_SECTION = re.compile(r"\[(?P<group>[^:\]\s]+)(?::(?P<kind>\w+))?\]\s*(?:#.*)?")
_GROUP = re.compile(r"(?P<name>[^:\]\s]+)\s*(?:#.*)?")


def parse(text: str, where: str) -> Hosts:
    """Read a host list.

    Args:
        text: Its content.
        where: The file, for messages.

    Raises:
        UsageError: If it is none.
    """
    reader = _Reader(where)
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and line[0] not in "#;":
            reader.number = number
            reader.read(line)
    return reader.end()


class _Reader:
    """Goes through the lines; each belongs to the section above it, the first ones to no group."""

    def __init__(self, where: str) -> None:
        self.hosts = Hosts(where)
        self.number = 0
        self.group, self.kind = UNGROUPED, "hosts"
        self.declared = {ALL, UNGROUPED}
        self.named: dict[str, int] = {}

    def read(self, line: str) -> None:
        if section := _SECTION.fullmatch(line):
            self._begin(section["group"], section["kind"] or "hosts")
        elif self.kind == "hosts":
            self._host(line)
        elif self.kind == "vars":
            key, value = self._pair(line)
            self.hosts.group(self.group).variables[key.strip()] = value_of(value.strip())
        else:
            child = _GROUP.fullmatch(line) or self._refuse(f"{line[:40]!r} is no name of a group")
            self.hosts.group(self.group).children[child["name"]] = None
            self.named.setdefault(child["name"], self.number)

    def end(self) -> Hosts:
        """Return what was read, if every group that was named is there."""
        for name, number in self.named.items():
            if name not in self.declared:
                self.number = number
                self._refuse(f"there is no group {name}")
        return self.hosts

    def _begin(self, group: str, kind: str) -> None:
        if kind not in ("hosts", "vars", "children"):
            self._refuse(f"a section is of unknown kind {kind!r}; valid are hosts, vars, children")
        self.group, self.kind = group, kind
        if kind == "vars":
            self.named.setdefault(group, self.number)
        else:
            self.declared.add(group)
            self.hosts.group(group)

    def _host(self, line: str) -> None:
        try:
            pattern, *words = shlex.split(line, comments=True)
        except ValueError as error:
            self._refuse(f"cannot be read ({error})")
        names, port = expand(pattern, self.hosts.where)
        self.hosts.add(names, port, {k: value_of(v) for k, v in map(self._pair, words)}, self.group)

    def _pair(self, text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not equals:
            self._refuse(f"{key[:40]!r} is no variable with its value")
        return key, value

    def _refuse(self, reason: str) -> NoReturn:
        raise UsageError(f"{self.hosts.where} line {self.number}", reason, "correct the line")


def value_of(text: str) -> Any:
    """Return a value as Python writes it, a number or a list say; what is none is text."""
    if len(text) > LONGEST_VALUE:
        return text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return text
