"""Which Edge TPUs this machine has, and whether this user may open them.

Source: coral.ai, "Get started with the USB Accelerator" and "with the M.2 or Mini PCIe Accelerator".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

USB_IDS = ("1a6e:089a", "18d1:9302")
"""Vendor and product of the USB Accelerator: before its firmware is loaded, and afterwards."""


class Unit(NamedTuple):
    """One Edge TPU: its device node, and whether this user may read and write it."""

    node: Path
    allowed: bool


def usb_units(root: Path = Path("/")) -> list[Unit]:
    """Find the Edge TPUs on USB."""
    units = []
    for folder in sorted((root / "sys/bus/usb/devices").glob("*")):
        if f"{_text(folder / 'idVendor')}:{_text(folder / 'idProduct')}" in USB_IDS:
            bus, number = (int(_text(folder / name) or 0) for name in ("busnum", "devnum"))
            units.append(_unit(root / f"dev/bus/usb/{bus:03}/{number:03}"))
    return units


def pci_units(root: Path = Path("/")) -> list[Unit]:
    """Find the Edge TPUs on PCI Express, which the driver shows as ``/dev/apex_0`` and so on."""
    return [_unit(node) for node in sorted((root / "dev").glob("apex_*"))]


def lack(bus: str, units: list[Unit]) -> tuple[str, str] | None:
    """Say what stands against using these units, and what to do; None where nothing is known to.

    Args:
        bus: ``usb`` or ``pci``.
        units: What was found there.
    """
    if not units:
        drivers = " and install its driver (gasket-dkms)" if bus == "pci" else ""
        return f"there is no Edge TPU on {bus.upper()}", f"plug one in{drivers}"
    if not any(unit.allowed for unit in units):
        group = "apex" if bus == "pci" else "plugdev"
        return f"this user may not open {units[0].node}", f"add the user to the group {group}, and log in again"
    return None


def _unit(node: Path) -> Unit:
    return Unit(node, os.access(node, os.R_OK | os.W_OK))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
