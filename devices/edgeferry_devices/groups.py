"""Tags and groups, one concept from two sides: ``@name`` is what is tagged so, and what a group of this name lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from edgeferry_devices import inventory
from edgeferry_devices.inventory import LOCAL, Entry, Inventory, check_tag
from edgeferry_runtime.errors import UnknownNameError, UsageError


def names(found: Inventory) -> list[str]:
    """Return every name of a tag or group, without its ``@``."""
    return sorted({*found.groups, *(tag for entry in found.devices.values() for tag in entry.all_tags)})


def members(found: Inventory, name: str) -> list[str]:
    """Return the devices that a name stands for: first those that the group lists, then those that are tagged.

    Args:
        found: The inventory.
        name: The name, without its ``@``.

    Raises:
        UnknownNameError: If no group and no tag has this name, or a group lists what there is not.
        UsageError: If a group contains itself.
    """
    return list(dict.fromkeys(_members(found, name, ())))


def _members(found: Inventory, name: str, within: tuple[str, ...]) -> Iterator[str]:
    if name in within:
        circle = ", ".join(f"@{each}" for each in (*within, name))
        raise UsageError(f"group @{name}", f"contains itself ({circle})", "list in it what is not above it")
    if name not in names(found):
        fix = f"or tag a device: ferry device tag DEVICE {check_tag(name)}"
        raise UnknownNameError("group", f"@{name}", [f"@{each}" for each in names(found)], fix)
    for member in found.groups.get(name, ()):
        if member.startswith("@"):
            yield from _members(found, member[1:], (*within, name))
        elif member in (LOCAL, *found.devices):
            yield member
        else:
            raise UnknownNameError(f"group @{name}", member, [LOCAL, *found.devices])
    yield from (entry.name for entry in found.devices.values() if name in entry.all_tags)


def of(found: Inventory, device: str) -> list[str]:
    """Return the names, without their ``@``, that stand for a device among others."""
    return [name for name in names(found) if device in members(found, name)]


def tag(device: str, tags: Sequence[str]) -> Entry:
    """Tag a device of the inventory, and return it.

    Raises:
        UsageError: If a tag is no name.
        UnknownNameError: If there is no such device.
    """
    wanted = [check_tag(name) for name in tags]
    return _change(device, lambda entry: replace(entry, tags=tuple(dict.fromkeys((*entry.tags, *wanted)))))


def untag(device: str, tags: Sequence[str]) -> Entry:
    """Take tags from a device of the inventory, and return it; an import of the file that it came from may bring them.

    Raises:
        UnknownNameError: If there is no such device, or it has no such tag.
    """

    def without(entry: Entry) -> Entry:
        for name in tags:
            if name not in entry.all_tags:
                raise UnknownNameError(f"device {device}", name, entry.all_tags)
        tagged, imported = (tuple(t for t in had if t not in tags) for had in (entry.tags, entry.source_tags))
        return replace(entry, tags=tagged, source_tags=imported)

    return _change(device, without)


def set_group(name: str, listed: Sequence[str]) -> None:
    """Make a group, or say anew what it lists.

    Args:
        name: Its name, without the ``@``.
        listed: Names of devices of the inventory, ``local``, and ``@name`` for what another group or tag stands for.

    Raises:
        UsageError: If the name is none, or the group would contain itself.
        UnknownNameError: If there is no such device or group.
    """
    found = inventory.load()
    changed = replace(found, groups={**found.groups, check_tag(name): tuple(dict.fromkeys(listed))})
    members(changed, name)
    inventory.save(changed)


def remove_group(name: str) -> None:
    """Remove a group; its devices stay, and so do tags of its name.

    Raises:
        UnknownNameError: If there is no such group.
        UsageError: If another group lists it.
    """
    found = inventory.load()
    if name not in found.groups:
        raise UnknownNameError("group", f"@{name}", [f"@{each}" for each in found.groups])
    changed = replace(found, groups={each: listed for each, listed in found.groups.items() if each != name})
    users = [each for each, listed in changed.groups.items() if f"@{name}" in listed]
    if users and name not in names(changed):
        raise UsageError(f"group @{name}", f"is listed in @{users[0]}", f"take it out of @{users[0]} first")
    inventory.save(changed)


def _change(device: str, how: Callable[[Entry], Entry]) -> Entry:
    found = inventory.load()
    if device not in found.devices:
        raise UnknownNameError("device", device, found.devices)
    changed = how(found.devices[device])
    inventory.save(replace(found, devices={**found.devices, device: changed}))
    return changed
