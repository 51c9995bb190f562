"""Which devices are meant: names, addresses, groups, and all of the inventory."""

from __future__ import annotations

from collections.abc import Sequence

from edgeferry_devices import groups, inventory
from edgeferry_devices.inventory import ALL, LOCAL, Inventory
from edgeferry_runtime.errors import UsageError


def select(names: Sequence[str]) -> list[str]:
    """Return the devices that names stand for, in their order, each once.

    Args:
        names: Names of the inventory, ``user@host[:port]``, ``local``, ``@name`` for what a group or tag stands for,
            and ``all`` for every device of the inventory; ``local`` is not among these.

    Raises:
        UnknownNameError: If there is no such device or group.
        UsageError: If a group or the inventory is empty, or it is an address that cannot be one.
    """
    found = inventory.load()
    return list(dict.fromkeys(device for name in names for device in _expand(found, name)))


def _expand(found: Inventory, name: str) -> list[str]:
    if name == ALL:
        return _some(ALL, list(found.devices), "add one: ferry device add NAME USER@HOST")
    if name.startswith("@"):
        return _some(name, groups.members(found, name[1:]), f"tag one: ferry device tag DEVICE {name[1:]}")
    if name != LOCAL:
        inventory.get(name)
    return [name]


def _some(name: str, devices: list[str], fix: str) -> list[str]:
    if not devices:
        raise UsageError(name, "stands for no device", fix)
    return devices
