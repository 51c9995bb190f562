"""Facts about a device: one shell script asks for all of them, and nothing needs to be installed there but ``sh``."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.device import Device
from edgeferry_devices.folders import folder_of
from edgeferry_devices.installation import preference
from edgeferry_devices.knowing.accelerator_facts import ACCELERATORS
from edgeferry_devices.knowing.fact import read, script, sections
from edgeferry_devices.knowing.folder_facts import FOLDER
from edgeferry_devices.knowing.machine_facts import MACHINE
from edgeferry_devices.knowing.python_facts import OURS, PYTHONS, probe
from edgeferry_devices.knowing.state_facts import STATE, clock_skew
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.platforms import CANDIDATES, Platform
from edgeferry_devices.remote import RemoteDevice
from edgeferry_runtime import __version__
from edgeferry_runtime.errors import DeviceRequirementError

TIMEOUT_S = 400.0
"""Importing engines is slow on the smallest boards."""


@dataclass(frozen=True)
class Facts:
    """What a device is and how it fares; a value that the device does not tell is absent.

    Attributes:
        device: Its name.
        address: Where it is; ``this machine`` for ``local``.
        root: Our folder there.
        runtime: The version of our runtime there; empty where it is not installed yet.
        machine: What does not change: ``board``, ``soc``, ``cpu``, ``features``, ``cores``, ``arch``,
            ``userland_bits``, ``page_size`` (bytes), ``memory_bytes``, ``os``, ``kernel``, ``libc``, ``inside`` (the
            distribution inside it that told all this), and of the Python that would run us ``python``, ``numpy``,
            ``engines`` (versions) and ``imports`` (errors or "").
        state: What does: ``temperature_c``, ``frequency_mhz``, ``governor``, ``throttled``, ``load1``, ``uptime_s``,
            ``memory_available_bytes``, ``clock_skew_s`` (how far the device is ahead of this machine).
        folder: Of our folder: ``writable``, ``free_bytes``, ``total_bytes``, ``mount``, ``mount_options``, ``user``,
            and ``parts``: what of an installation is there.
        accelerators: ``nodes``, ``usb``, ``libraries`` and ``vulkan_drivers``.
        pythons: Each Python there, the one that would run us first.
    """

    device: str
    address: str
    root: str
    runtime: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    folder: Mapping[str, Any] = field(default_factory=dict)
    accelerators: Mapping[str, Any] = field(default_factory=dict)
    pythons: Sequence[Mapping[str, Any]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {key: list(value) if key == "pythons" else value for key, value in vars(self).items()}


def gather(device: Device) -> Facts:
    """Ask a device about itself.

    Raises:
        DeviceError: If it cannot be reached, or runs no shell.
    """
    mark = f"edgeferry-{secrets.token_hex(8)}"
    asked = script((*FOLDER, *MACHINE, *STATE, *ACCELERATORS, *PYTHONS), probe())
    root, flag, pythons = _ours(device)
    before = time.time()
    done = device.exec(["sh", "-s", "--", mark, root, flag, *pythons], stdin=asked.encode(), timeout=TIMEOUT_S)
    found = sections(done.stdout.decode(errors="replace"), mark)
    if not found:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.exit_status}"])[-1][:200]
        fix = "check that its account has a shell, and that sh is on the PATH of its commands"
        raise DeviceRequirementError(device.name, f"cannot run sh ({said})", fix)
    facts = assemble(device.name, _address(device), found, (before, time.time()))
    if isinstance(device, RemoteDevice) and device.entry.inside:
        facts = replace(facts, machine={**facts.machine, "inside": device.entry.inside})
    return replace(facts, runtime=__version__) if isinstance(device, LocalDevice) else facts


def _ours(device: Device) -> tuple[str, str, Sequence[str]]:
    """Return our folder, the flag that keeps a Python apart, and the Pythons to ask, ours first."""
    if isinstance(device, LocalDevice):
        return str(device.root), "-B", [sys.executable]
    return folder_of(device), "-I", [OURS, *CANDIDATES]


def _address(device: Device) -> str:
    return str(device.entry.address) if isinstance(device, RemoteDevice | AdbDevice) else "this machine"


def assemble(device: str, address: str, found: Mapping[str, str], asked: tuple[float, float]) -> Facts:
    """Turn the sections that a device printed into facts.

    Args:
        device: Its name.
        address: Where it is.
        found: What it printed, by the name of the fact.
        asked: Our clock before and after.
    """
    folder, machine, state = read(FOLDER, found), read(MACHINE, found), read(STATE, found)
    pythons = _ordered(read(PYTHONS, found).get("pythons", []))
    if "clock" in state:
        state["clock_skew_s"] = clock_skew(state.pop("clock"), *asked)
    machine = {**(_of_python(pythons[0]) if pythons else {}), **machine, **(_named(pythons[0]) if pythons else {})}
    if "cpu" in machine:
        machine.setdefault("board", machine["cpu"])
    root, runtime = folder.pop("root", ""), folder.pop("runtime", "")
    return Facts(device, address, root, runtime, machine, state, folder, read(ACCELERATORS, found), pythons)


def _ordered(pythons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put the Python that would run us first: of our environment, else the first that will do."""
    return sorted(pythons, key=lambda found: preference(Platform.of(found)))


def _of_python(found: Mapping[str, Any]) -> dict[str, Any]:
    """What Python knows too, where the shell does not tell."""
    told = {"userland_bits": found.get("bits"), "page_size": found.get("page_size"), "arch": found.get("machine")}
    return {key: value for key, value in {**told, "libc": found.get("libc")}.items() if value}


def _named(found: Mapping[str, Any]) -> dict[str, Any]:
    version = ".".join(str(part) for part in found["version"])
    told = {"python": version, "numpy": found.get("numpy"), "userland_bits": found.get("bits")}
    known = {key: value for key, value in told.items() if value}
    return {**known, "engines": found.get("engines", {}), "imports": found.get("imports", {})}
