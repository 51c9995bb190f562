"""Ansible's host lists in YAML: groups by name, with ``hosts``, ``children`` and ``vars``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from edgeferry_devices.ansible.hosts import Hosts
from edgeferry_devices.ansible.patterns import expand
from edgeferry_runtime.errors import UsageError

SECTIONS = ("hosts", "children", "vars")


def parse(data: Any, where: str) -> Hosts:
    """Read a host list.

    Args:
        data: What the file holds.
        where: The file, for messages.

    Raises:
        UsageError: If it is none, or asks for a plugin that would fetch one.
    """
    if not isinstance(data, Mapping) or not data:
        raise UsageError(where, "is no host list: it does not begin with names of groups", "correct the file")
    if data.get("plugin"):
        reason = f"lets the plugin {str(data['plugin'])[:60]!r} fetch the hosts, and nothing is executed here"
        raise UsageError(where, reason, f"write down what it finds: ansible-inventory -i {where} --list --yaml")
    hosts = Hosts(where)
    for name, content in data.items():
        _group(hosts, name, content)
    return hosts


def _group(hosts: Hosts, name: Any, content: Any) -> None:
    if not isinstance(name, str):
        _refuse(hosts, f"group {name!r}", "its name is no text; put it in quotes")
    if content is not None and not isinstance(content, Mapping):
        hosts.notes.append(f"group {name}: left out, since it is no group")
        return
    group = hosts.group(name)
    parts = {key: _mapping(hosts, name, str(key), value) for key, value in (content or {}).items()}
    group.variables.update({str(key): value for key, value in parts.get("vars", {}).items()})
    for child, inner in parts.get("children", {}).items():
        _group(hosts, child, inner)
        group.children[child] = None
    for pattern, variables in parts.get("hosts", {}).items():
        if variables is not None and not isinstance(variables, Mapping):
            _refuse(hosts, f"host {pattern}", "what is said of it are no variables")
        names, port = expand(str(pattern), hosts.where)
        hosts.add(names, port, {str(key): value for key, value in (variables or {}).items()}, name)


def _mapping(hosts: Hosts, group: str, key: str, value: Any) -> Mapping[Any, Any]:
    if key not in SECTIONS:
        hosts.notes.append(f"group {group}: {key} is not read; valid are {', '.join(SECTIONS)}")
        return {}
    if isinstance(value, str):
        return {value: None}
    if value is not None and not isinstance(value, Mapping):
        _refuse(hosts, f"group {group}", f"its {key} are no mapping; end each name with a colon")
    return value or {}


def _refuse(hosts: Hosts, subject: str, reason: str) -> NoReturn:
    raise UsageError(f"{hosts.where}: {subject}", reason, "correct the file")
