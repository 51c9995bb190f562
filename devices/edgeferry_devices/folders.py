"""Where our folder lies on a device of each kind."""

from __future__ import annotations

from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.device import Device
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.remote import RemoteDevice


def folder_of(device: Device) -> str:
    """Return our folder on a device; over SSH it may begin with ``~``."""
    if isinstance(device, LocalDevice):
        return str(device.root)
    return device.entry.root if isinstance(device, RemoteDevice | AdbDevice) else ""
