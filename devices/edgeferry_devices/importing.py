"""Takes hosts of a host list into the inventory: what came from there is brought up to date, the rest is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeferry_devices import inventory
from edgeferry_devices.inventory import Entry, check_tag
from edgeferry_runtime.errors import OutputExistsError, UsageError


@dataclass(frozen=True)
class Import:
    """What an import would change.

    Attributes:
        added: Devices that are new.
        changed: Devices that came from there and are different now.
        same: Devices that came from there and are as they were.
        gone: Names of devices that came from there and are not there any more; they are kept.
        notes: What is to be said about the host list.
    """

    added: tuple[Entry, ...]
    changed: tuple[Entry, ...]
    same: tuple[Entry, ...]
    gone: tuple[str, ...]
    notes: tuple[str, ...]

    def perform(self) -> None:
        """Write it into the inventory, all of it or nothing."""
        found = inventory.load()
        devices = {entry.name: entry for entry in (*self.added, *self.changed)}
        inventory.save(replace(found, devices={**found.devices, **devices}))


def plan_import(path: Path, tags: Sequence[str] = ()) -> Import:
    """Read a host list of Ansible's, and say what taking it into the inventory would change; nothing is written.

    Of a device that came from the same file before, its address, key, jump hosts and groups are those of the file; its
    folder, its password's variable and the user's own tags stay.

    Args:
        path: The host list, in INI or YAML.
        tags: What its hosts are to be tagged with besides.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If it is no host list, or says what cannot be taken over.
        OutputExistsError: If a device of one of the names came from elsewhere.
    """
    from edgeferry_devices.ansible.devices import devices

    known = inventory.read()
    entries, notes = devices(path)
    if not entries:
        raise UsageError(path, "lists no host that is reached over SSH", "give a host list")
    wanted = [_joined(entry, known.get(entry.name), [check_tag(tag) for tag in tags]) for entry in entries]
    names = {entry.name for entry in wanted}
    return Import(
        added=tuple(entry for entry in wanted if entry.name not in known),
        changed=tuple(entry for entry in wanted if entry.name in known and known[entry.name] != entry),
        same=tuple(entry for entry in wanted if known.get(entry.name) == entry),
        gone=tuple(e.name for e in known.values() if e.source == wanted[0].source and e.name not in names),
        notes=tuple(notes),
    )


def _joined(entry: Entry, old: Entry | None, tags: Sequence[str]) -> Entry:
    """Return a device as the file has it, with what the user said of it before."""
    if old is not None and old.source != entry.source:
        where = f"came from {old.source}" if old.source else "was added by hand"
        fix = f"remove it first (ferry device remove {entry.name}), or give the host another name"
        raise OutputExistsError(f"device {entry.name}", f"exists and {where}", fix)
    kept = old or entry
    return replace(
        entry,
        root=kept.root,
        password_env=kept.password_env,
        tags=tuple(dict.fromkeys((*kept.tags, *tags))),
    )
