"""What an inventory of Ansible's says: hosts, groups, their variables, and which of these win."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeferry_runtime.errors import UsageError

ALL, UNGROUPED = "all", "ungrouped"
PRIORITY = "ansible_group_priority"
"""Says which of two groups of one depth wins, and is no variable of their hosts."""


@dataclass
class Group:
    """One group.

    Attributes:
        variables: What holds for all its hosts.
        hosts: Its own hosts.
        children: Groups whose hosts are its hosts too.
    """

    variables: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)


class Hosts:
    """Hosts and groups as they are read; names come in the order of the file.

    Args:
        where: The file, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.groups: dict[str, Group] = {ALL: Group(), UNGROUPED: Group()}
        self.variables: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []

    def group(self, name: str) -> Group:
        """Return a group, made where there is none."""
        return self.groups.setdefault(name, Group())

    def add(self, names: list[str], port: int | None, variables: Mapping[str, Any], group: str) -> None:
        """Add hosts to a group; a port that stands with the name counts where the host is new."""
        for name in names:
            known = self.variables.setdefault(name, {} if port is None else {"ansible_port": port})
            known.update(variables)
            self.group(group).hosts[name] = None

    def groups_of(self, host: str) -> list[str]:
        """Return the groups of a host with those above them, the last of which wins; `ALL` is the first.

        Raises:
            UsageError: If a group contains itself.
        """
        depths = self._depths()
        own = {name for name, group in self.groups.items() if host in group.hosts} - {ALL, UNGROUPED}
        found = {above for name in own or {UNGROUPED} for above in (name, *self._above(name))}
        return [ALL, *sorted(found - {ALL}, key=lambda name: (depths[name], self._priority(name), name))]

    def _above(self, name: str) -> Iterator[str]:
        for parent, group in self.groups.items():
            if name in group.children:
                yield parent
                yield from self._above(parent)

    def _depths(self) -> dict[str, int]:
        """Return how deep each group lies below `ALL`, by the longest way."""
        depths = dict.fromkeys(self.groups, 1) | {ALL: 0}
        for _ in self.groups:
            before = dict(depths)
            for parent, group in self.groups.items():
                for child in group.children:
                    depths[child] = max(depths[child], depths[parent] + 1)
            if depths == before:
                return depths
        raise UsageError(self.where, "has a group that contains itself", "break the circle of its children")

    def _priority(self, name: str) -> int:
        value = self.groups[name].variables.get(PRIORITY, 1)
        if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdecimal()):
            return int(value)
        raise UsageError(f"{self.where}: group {name}", f"{PRIORITY} is {value!r}", "give a number")
