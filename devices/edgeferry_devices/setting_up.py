"""Makes a device ready: looks at it, installs what fits, and tries each engine there on a tiny model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeferry_devices import inside, inventory, provision
from edgeferry_devices.device import Device, Say, silent
from edgeferry_devices.doctor import examine
from edgeferry_devices.facts import Facts, gather
from edgeferry_devices.installation import Installation, choose, plan, refusal
from edgeferry_devices.knowing.wheels_known import FORMATS, SERVE
from edgeferry_devices.local import LocalDevice, missing_engine
from edgeferry_devices.platforms import Platform
from edgeferry_devices.provision import Place, Policy, Stamp
from edgeferry_devices.remote import RemoteDevice
from edgeferry_runtime.errors import (
    DeviceError,
    DeviceRequirementError,
    EdgeferryError,
    RemoteCommandError,
    UnknownNameError,
)

TRIAL_TIMEOUT_S = 300.0
REPAIRED = ("imports",)
"""What the doctor finds wrong and the installation puts right."""
TOLD_LATER = ("engines", "serve")
"""What the result tells by format, and what is told where it is asked for."""


@dataclass(frozen=True)
class Readiness:
    """How a device fares with one format.

    Attributes:
        format: Such as ``tflite``.
        verdict: ``works`` (tried on a tiny model there), ``fails``, or ``unavailable``.
        engine: Name and version; empty where there is none.
        reason: Why it does not work; empty where it does.
        fix: What to do about it.
    """

    format: str
    verdict: str
    engine: str = ""
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Setup:
    """What a device is ready for.

    Attributes:
        device: Its name.
        root: Our folder there.
        python: The version of its Python.
        machine: The architecture of its programs.
        inside: The distribution inside it that is used, such as ``proot:debian``; empty for the device itself.
        up_to_date: Whether nothing had to be installed.
        bytes_sent: How much was sent.
        seconds: How long it took.
        formats: How it fares with each format.
        serves: Whether the server is installed.
    """

    device: str
    root: str
    python: str
    machine: str
    inside: str
    up_to_date: bool
    bytes_sent: int
    seconds: float
    formats: tuple[Readiness, ...]
    serves: bool = False

    @property
    def failed(self) -> list[Readiness]:
        """The formats whose engine is there and does not work."""
        return [found for found in self.formats if found.verdict == "fails"]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "formats": [vars(found) for found in self.formats], "ready": not self.failed}


def set_up(
    device: Device, formats: Sequence[str] = (), offline: bool = False, say: Say = silent, serve: bool = False
) -> Setup:
    """Make a device ready; what is there already is tried again, and installed anew only where it does not work.

    Args:
        device: The device.
        formats: For which formats, such as ``tflite``; none means every one that has an engine for it.
        offline: Whether this machine uses its cache alone.
        say: Takes the progress.
        serve: Whether to install the server too; a device that has it keeps it in any case.

    Raises:
        UnknownNameError: If there is no such format.
        DeviceRequirementError: If something hinders; says what to do.
        DeviceError: If it cannot be reached.
    """
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("--format", name, FORMATS)
    started = time.monotonic()
    optional = [SERVE] if serve else []
    if isinstance(device, LocalDevice):
        done = _local(device, formats, optional)
    else:
        done = _remote(device, formats, optional, Policy(offline), say)
    return replace(done, seconds=time.monotonic() - started)


def _local(device: LocalDevice, formats: Sequence[str], optional: Sequence[str]) -> Setup:
    """Try what is installed here; nothing is installed."""
    for part in optional:
        if error := missing_engine(part):
            raise error
    wanted = [*(formats or FORMATS)]
    missing = {name: error for name in wanted if (error := missing_engine(name))}
    lacking = [Readiness(name, "unavailable", "", error.reason, error.fix) for name, error in missing.items()]
    tried = _tried(device, [name for name in wanted if name not in missing], silent)
    found = gather(device).pythons[0]
    version = ".".join(map(str, found["version"]))
    told = (*tried, *lacking)
    serves = missing_engine(SERVE) is None
    return Setup(device.name, str(device.root), version, found["machine"], "", True, 0, 0.0, told, serves)


def _remote(device: Device, formats: Sequence[str], optional: Sequence[str], policy: Policy, say: Say) -> Setup:
    if not isinstance(device, RemoteDevice):  # over adb there is nothing to install into, which it says
        device.open_agent(formats, say).close()
    assert isinstance(device, RemoteDevice)
    if SERVE in optional:
        inside.check_serving(device.name, device.entry.inside)
    place = provision.look(device, device.entry.root)
    planned, kept = provision.settle(device, place) if place.stamp.runtime else (None, Stamp())
    wanted = formats or (planned.formats if planned else ())
    if planned is not None and kept.has([*wanted, *optional]):
        tried = _tried_again(device, wanted, say)
        if tried and all(found.verdict == "works" for found in tried):
            return _setup(device, planned, place, tried, up_to_date=True)
        say(f"{device.name}: what is installed does not work: installing it anew")
        kept = Stamp()
    fresh = bool(place.stamp.runtime) and not kept.runtime
    planned, place = _install(device, formats, optional, replace(policy, fresh=fresh), say)
    return _setup(device, planned, place, _tried(device, formats or planned.formats, say))


def _tried_again(device: RemoteDevice, formats: Sequence[str], say: Say) -> list[Readiness]:
    """Try what was installed before; nothing where not even our runtime starts."""
    try:
        return _tried(device, formats, say)
    except RemoteCommandError:
        return []


def _install(
    device: RemoteDevice, formats: Sequence[str], optional: Sequence[str], policy: Policy, say: Say
) -> tuple[Installation, Place]:
    facts = _examined(device, say)
    if SERVE in optional:
        inside.check_serving(device.name, device.entry.inside)
    planned = choose(device.name, [Platform.of(told) for told in facts.pythons])
    wanted = [*(formats or planned.formats), *optional]
    provision.check_formats(device.name, planned, wanted)
    place = provision.look(device, device.entry.root)
    return planned, provision.complete(device, place, wanted, say, policy)


def _examined(device: RemoteDevice, say: Say) -> Facts:
    """Look at a device, or at the distribution inside where it needs one, and stop at what will not work."""
    facts = gather(device)
    if _needs_inside(device, facts) and (found := inside.find(device)):
        say(f"{device.name}: there are no engines for Android itself: using {found}")
        enter(device, found)
        facts = gather(device)
    for finding in examine(facts).findings:
        if finding.verdict == "failure" and finding.check not in REPAIRED:
            raise DeviceRequirementError(device.name, finding.reason, finding.fix)
        if finding.verdict == "warning" and finding.check not in TOLD_LATER:
            say(f"{device.name}: warning: {finding.reason}")
    return facts


def _needs_inside(device: RemoteDevice, facts: Facts) -> bool:
    there = [Platform.of(told) for told in facts.pythons]
    return not device.entry.inside and "termux" in facts.machine and not any(plan(python).formats for python in there)


def enter(device: RemoteDevice, found: str) -> None:
    """Use the distribution inside a device from now on, and remember it where the device has a name."""
    device.entry = replace(device.entry, inside=found)
    if device.name in inventory.read():
        inventory.update(device.entry)


def _tried(device: Device, formats: Sequence[str], say: Say) -> list[Readiness]:
    """Try each engine there, in a process that may die of it."""
    if not formats:
        return []
    with device.open_agent(formats, say) as agent:
        tried = []
        for name in formats:
            try:
                told = agent.ask("trial", timeout=TRIAL_TIMEOUT_S, format=name)
                tried.append(Readiness(name, "works", f"{told['engine']} {told['version']}"))
            except DeviceError:
                raise
            except EdgeferryError as error:
                tried.append(Readiness(name, "fails", "", error.reason, error.fix))
        return tried


def _setup(
    device: RemoteDevice, planned: Installation, place: Place, tried: Sequence[Readiness], up_to_date: bool = False
) -> Setup:
    asked = {found.format for found in tried}
    others = [name for name in FORMATS if name not in asked and name not in planned.formats]
    lacking = [Readiness(name, "unavailable", "", *refusal(planned.platform, name)) for name in others]
    python = planned.platform
    who = device.name, place.root, python.dotted, python.arch, device.entry.inside
    serves = SERVE in place.stamp.formats
    return Setup(*who, up_to_date, place.bytes_sent, 0.0, (*tried, *lacking), serves)
