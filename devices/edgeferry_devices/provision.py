"""Brings to a device what it lacks: a virtual environment with the runtime and the engines that are needed.

The device has Python 3.10 or newer and SSH; it needs neither pip nor a network. A stamp in the environment says
what was installed, so that only what changed is brought again.
"""

from __future__ import annotations

import importlib.resources
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeferry_devices import platforms, wheelhouse
from edgeferry_devices.platforms import Platform
from edgeferry_devices.wheel import runtime_version
from edgeferry_devices.wheelhouse import Wheel
from edgeferry_runtime.errors import DeviceRequirementError

if TYPE_CHECKING:
    from edgeferry_devices.device import Device, Say

INSTALL_TIMEOUT_S = 900.0
LARGE_BYTES = 5_000_000
"""From this size on a wheel is named while it is sent."""
LOOK = """\
case "$0" in "~/"*) r="$HOME/${0#??}";; *) r="$0";; esac
printf '\\nedgeferry-root %s\\n' "$r"; cat "$r/venv/edgeferry.json" 2>/dev/null; exit 0
"""
ENGINE_NAMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}


@dataclass(frozen=True)
class Stamp:
    """What is installed on a device.

    Attributes:
        runtime: The version of our runtime, with the hash of its content; empty where there is none.
        formats: The artifact formats whose engines are there.
        wheels: SHA-256 by wheel name.
    """

    runtime: str = ""
    formats: tuple[str, ...] = ()
    wheels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where we live on a device.

    Attributes:
        root: Our folder, absolute.
        python: The Python of our environment.
        stamp: What is installed.
    """

    root: str
    stamp: Stamp

    @property
    def python(self) -> str:
        """The Python of our environment."""
        return f"{self.root}/venv/bin/python"


def look(device: Device, root: str) -> Place:
    """Find our folder and what is installed there.

    Raises:
        DeviceRequirementError: If the device runs no shell commands.
    """
    done = device.exec(["sh", "-c", LOOK, root])
    _, found, rest = done.stdout.decode(errors="replace").partition("\nedgeferry-root ")
    if not found:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.exit_status}"])[-1][:200]
        fix = "check that its account has a shell, and that sh is on the PATH of SSH commands"
        raise DeviceRequirementError(device.name, f"cannot run sh ({said})", fix)
    path, _, text = rest.partition("\n")
    return Place(path, _read_stamp(text))


def _read_stamp(text: str) -> Stamp:
    try:
        data = json.loads(text)
        return Stamp(data["runtime"], tuple(data["formats"]), dict(data["wheels"]))
    except (ValueError, KeyError, TypeError):
        return Stamp()


def ensure(device: Device, root: str, formats: Sequence[str], say: Say) -> Place:
    """Make sure that the runtime and the engines for some artifact formats are installed on a device.

    Args:
        device: The device.
        root: Its folder, as the inventory has it.
        formats: Such as ``tflite``.
        say: Takes the progress.

    Raises:
        DeviceRequirementError: If the device has no Python, no space, no writable folder, or no wheel fits it.
    """
    place = look(device, root)
    all_formats = sorted({*place.stamp.formats, *formats})
    if place.stamp.runtime == runtime_version() and len(all_formats) == len(place.stamp.formats):
        return place
    platform, kept = _platform(device, place)
    say(_announce(device.name, platform, kept, all_formats))
    wheels = wheelhouse.collect(device.name, platform, all_formats)
    stamp = Stamp(runtime_version(), tuple(all_formats), {w.path.name: w.sha256 for w in wheels})
    new = [w for w in wheels if kept.wheels.get(w.path.name) != w.sha256 or w.path.name.startswith("pip-")]
    _bring(device, platform.python, place.root, new, say)
    request = {"op": "install", "root": place.root, "wheels": _described(new), "stamp": vars(stamp)}
    _call(device, platform.python, request, INSTALL_TIMEOUT_S)
    say(f"{device.name}: installed")
    return Place(place.root, stamp)


def _platform(device: Device, place: Place) -> tuple[Platform, Stamp]:
    """Return the Python to install with and what it already has; an environment that is broken has nothing."""
    own = platforms.ask(device, [place.python]) if place.stamp.runtime else []
    if own:
        return platforms.choose(device.name, own), place.stamp
    return platforms.choose(device.name, platforms.ask(device)), Stamp()


def _announce(device: str, platform: Platform, kept: Stamp, formats: Sequence[str]) -> str:
    engines = [ENGINE_NAMES[name] for name in formats if name not in kept.formats]
    what = " and ".join(["the runtime"] * (kept.runtime != runtime_version()) + engines)
    return f"{device}: installing {what} for Python {platform.dotted} on {platform.machine}"


def _bring(device: Device, python: str, root: str, wheels: Sequence[Wheel], say: Say) -> None:
    """Send the wheels that are not there yet; those of an interrupted installation are."""
    answer = _call(device, python, {"op": "prepare", "root": root, "wheels": _described(wheels)}, 120)
    missing = [wheel for wheel in wheels if wheel.sha256 in answer["missing"]]
    size = sum(wheel.path.stat().st_size for wheel in missing)
    if missing:
        say(f"{device.name}: sending {len(missing)} wheels, {size / 1e6:.1f} MB")
    for wheel in missing:
        if wheel.path.stat().st_size > LARGE_BYTES:
            say(f"{device.name}: sending {wheel.path.name.split('-')[0]}, {wheel.path.stat().st_size / 1e6:.1f} MB")
        device.put(wheel.path, f"{answer['incoming']}/{wheel.sha256}.part")


def _described(wheels: Sequence[Wheel]) -> dict[str, Any]:
    return {wheel.sha256: wheel.to_dict() for wheel in wheels}


def _call(device: Device, python: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Run one operation of `edgeferry_devices.bootstrap` on the device."""
    script = importlib.resources.files("edgeferry_devices").joinpath("bootstrap.py").read_bytes()
    done = device.exec([python, "-I", "-", json.dumps(request)], stdin=script, timeout=timeout)
    found = next(platforms.answers(done.stdout), None)
    if found is None:
        done.check(device.name)
        raise DeviceRequirementError(device.name, f"{shlex.quote(python)} answered nothing", "check the Python there")
    if "error" in found:
        raise DeviceRequirementError(device.name, found["error"]["reason"], found["error"]["fix"])
    result: dict[str, Any] = found["result"]
    return result
