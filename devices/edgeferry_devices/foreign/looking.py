"""What a device is and how it fares, for a profile: the facts that concern a measurement, asked in one round trip."""

from __future__ import annotations

import secrets
from typing import Any

from edgeferry_devices.device import Device
from edgeferry_devices.knowing.fact import Fact, read, script, sections
from edgeferry_devices.knowing.machine_facts import MACHINE
from edgeferry_devices.knowing.state_facts import STATE

ASKED = tuple(fact for fact in STATE if fact.name != "clock")


def machine(device: Device) -> dict[str, Any]:
    """Return what the device is; see `edgeferry_devices.Facts.machine`."""
    found = _ask(device, MACHINE)
    return {"board": found.get("cpu"), **found}


def state(device: Device) -> dict[str, Any]:
    """Return how it fares; see `edgeferry_devices.Facts.state`."""
    return _ask(device, ASKED)


def _ask(device: Device, facts: tuple[Fact, ...]) -> dict[str, Any]:
    mark = f"edgeferry-{secrets.token_hex(8)}"
    done = device.exec(["sh", "-s", "--", mark, "/", ""], stdin=script(facts).encode())
    return read(facts, sections(done.stdout.decode(errors="replace"), mark))
