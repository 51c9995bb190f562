"""Removes our folder from a device, and its service: all of it, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from edgeferry_devices import platforms, provision
from edgeferry_devices.device import Device
from edgeferry_devices.folders import folder_of
from edgeferry_devices.local import LocalDevice
from edgeferry_runtime.errors import DeviceRequirementError

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Purged:
    """What was removed.

    Attributes:
        device: The device's name.
        root: Our folder there.
        removed: Whether there was one.
        files: How many files and links it held.
        bytes: How large they were.
    """

    device: str
    root: str
    removed: bool
    files: int
    bytes: int


def purge(device: Device) -> Purged:
    """End our service, remove our folder, and the folders that were made for it. Links are removed, never followed.

    Raises:
        DeviceRequirementError: If the folder has not our marker, is in use by another command, or is a link, the
            service cannot be removed, or there is no Python to remove it with.
        DeviceError: If the device cannot be reached.
    """
    root = provision.look(device, folder_of(device)).root
    request = {"op": "purge", "root": root, "python": _ours(device, root)}
    done = provision.call(device, _python(device, root), request, TIMEOUT_S)
    return Purged(device.name, root, done["removed"], done["files"], done["bytes"])


def _ours(device: Device, root: str) -> list[str]:
    """Return what starts the Python that has our runtime, which ends the service."""
    return [sys.executable] if isinstance(device, LocalDevice) else [f"{root}/venv/bin/python", "-I"]


def _python(device: Device, root: str) -> str:
    """Return a Python of the system's, or ours where that is the only one left."""
    if isinstance(device, LocalDevice):
        return sys.executable
    found = platforms.ask(device, [*platforms.CANDIDATES, f"{root}/venv/bin/python"])
    if not found:
        raise DeviceRequirementError(device.name, f"has no Python to remove {root} with", "remove that folder by hand")
    return found[0].python
