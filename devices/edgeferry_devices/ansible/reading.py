"""Reads a host list of Ansible's with the variables beside it; nothing is executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeferry_devices.ansible import ini, yaml_data, yaml_hosts
from edgeferry_devices.ansible.hosts import ALL, PRIORITY, Hosts
from edgeferry_runtime.errors import MissingFileError, UsageError

LARGEST = 10_000_000
"""Bytes of a file."""
YAML = (".yml", ".yaml", ".json")


def read(path: Path) -> Hosts:
    """Read a host list.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If it is none, or a program that would print one.
    """
    text = _text(path)
    if os.access(path, os.X_OK) or text.startswith("#!"):
        fix = f"write down what it prints: ansible-inventory -i {path} --list --yaml; if it is a list: chmod -x {path}"
        raise UsageError(path, "is a program, and nothing is executed here", fix)
    if path.suffix in YAML:
        return yaml_hosts.parse(yaml_data.load(text, str(path)), str(path))
    if not path.suffix and _looks_like_yaml(text, str(path)):
        return yaml_hosts.parse(yaml_data.load(text, str(path)), str(path))
    return ini.parse(text, str(path))


def variables(path: Path, hosts: Hosts, host: str) -> dict[str, Any]:
    """Return what holds for a host: of what the file and those beside it say, that which Ansible lets win.

    Args:
        path: The host list.
        hosts: What it says.
        host: Its name, which may stand in the name of a file.

    Raises:
        UsageError: If a file beside it cannot be read.
    """
    groups = hosts.groups_of(host)
    merged: dict[str, Any] = {}
    for name in groups:
        merged.update({key: value for key, value in hosts.groups[name].variables.items() if key != PRIORITY})
    for name in (ALL, *(group for group in groups if group != ALL)):
        merged.update(_beside(path.parent / "group_vars", name, hosts))
    merged.update(hosts.variables[host])
    merged.update(_beside(path.parent / "host_vars", host, hosts))
    return merged


def _looks_like_yaml(text: str, where: str) -> bool:
    try:
        return isinstance(yaml_data.load(text, where), Mapping)
    except UsageError:
        return False


def _beside(folder: Path, name: str, hosts: Hosts) -> Mapping[Any, Any]:
    """Return the variables of the first file that has this name; of a folder it is said that it is not read."""
    for path in (folder / f"{name}{suffix}" for suffix in ("", *YAML)):
        if path.is_dir():
            note = f"{path} is a folder and not read"
            hosts.notes += [] if note in hosts.notes else [note]
            return {}
        if path.exists():
            data = yaml_data.load(_text(path), str(path))
            if data is not None and not isinstance(data, Mapping):
                raise UsageError(path, "does not hold variables", "correct the file")
            return data or {}
    return {}


def _text(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError(path, "is no file", "give the file that lists the hosts, hosts.ini or hosts.yml")
    if path.stat().st_size > LARGEST:
        raise UsageError(path, f"is larger than {LARGEST // 1_000_000} MB", "give a host list")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(path, "is no text in UTF-8", "give a host list") from error
