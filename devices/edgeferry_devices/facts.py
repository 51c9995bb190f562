"""Facts about a device: from our agent, or from its bare Python before the agent is there. Nothing is installed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeferry_devices import platforms, provision
from edgeferry_devices.device import Device
from edgeferry_devices.remote import RemoteDevice
from edgeferry_runtime.errors import DeviceRequirementError

TELL = """

import json, sys
sys.stdout.write("\\n" + json.dumps({"edgeferry": {"machine": dict(describe()), "state": dict(state())}}) + "\\n")
"""


@dataclass(frozen=True)
class Facts:
    """What a device is and how it fares.

    Attributes:
        device: Its name.
        address: Where it is; ``this machine`` for ``local``.
        root: Our folder there.
        runtime: The version of our runtime there; empty where it is not installed yet.
        machine: What does not change: see `edgeferry_runtime.machine.describe`.
        state: What does: see `edgeferry_runtime.machine.state`.
    """

    device: str
    address: str
    root: str
    runtime: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "machine": dict(self.machine), "state": dict(self.state)}


def gather(device: Device) -> Facts:
    """Ask a device about itself.

    Raises:
        DeviceError: If it cannot be reached, or has no Python.
    """
    if isinstance(device, RemoteDevice):
        return _remote(device)
    with device.open_agent() as agent:
        told = agent.ask("hello")
    return Facts(device.name, "this machine", told["root"], told["version"], told["machine"], told["state"])


def _remote(device: RemoteDevice) -> Facts:
    place = provision.look(device, device.entry.root)
    found = platforms.ask(device, [place.python]) or platforms.ask(device)
    if not found:
        platforms.choose(device.name, found)
    python = max(found, key=lambda platform: platform.version).python
    done = device.exec([python, "-I", "-"], stdin=script()).check(device.name)
    told = next(platforms.answers(done.stdout), None)
    if told is None:
        raise DeviceRequirementError(device.name, "its Python answered nothing", "check the Python there")
    address = str(device.entry.address)
    return Facts(device.name, address, place.root, place.stamp.runtime, told["machine"], told["state"])


def script() -> bytes:
    """Return a program for a bare Python that prints what our agent would say: the runtime's own module, as text."""
    from edgeferry_runtime import machine

    return (inspect.getsource(machine) + TELL).encode()
