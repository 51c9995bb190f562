"""Brings to a device what it lacks: a virtual environment with the runtime and the engines that are needed.

The device has Python 3.10 or newer and SSH; it needs neither pip nor a network. A stamp in the environment says
what was installed, so that only what changed is brought again. What is to be there is planned by `installation`.
"""

from __future__ import annotations

import importlib.resources
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeferry_devices import platforms, wheelhouse
from edgeferry_devices.installation import Installation, choose, plan, refusal
from edgeferry_devices.knowing.wheels_known import SERVE
from edgeferry_devices.wheel import runtime_version
from edgeferry_devices.wheelhouse import Wheel
from edgeferry_runtime.errors import DeviceRequirementError

if TYPE_CHECKING:
    from edgeferry_devices.device import Device, Say

INSTALL_TIMEOUT_S = 900.0
PREPARE_TIMEOUT_S = 120.0
LARGE_BYTES = 5_000_000
"""From this size on a wheel is named while it is sent."""
ROOT, AGENT = "\nedgeferry-root ", "\nedgeferry-agent\n"
LOOK = """\
case "$0" in "~/"*) r="$HOME/${0#??}";; *) r="$0";; esac
q="$1"; shift
s=$(cat "$r/venv/edgeferry.json" 2>/dev/null)
printf '\\nedgeferry-root %s\\n%s\\n' "$r" "$s"
[ "$#" -gt 0 ] || exit 0
for w; do case "$s" in *"\\"$w\\""*) ;; *) exit 0;; esac; done
printf '\\nedgeferry-agent\\n'
exec "$r/venv/bin/python" -I -m edgeferry_runtime.agent "$r" "$q"
"""
"""Says where our folder is and what is installed there; it becomes the agent where all that is named is there.

Its arguments are our folder, the agent's first question, and what has to be installed.
"""
LONGEST_QUESTION = 16_384
"""Bytes; a longer one goes through stdin, which costs a round trip: servers take no input before a command runs."""


@dataclass(frozen=True)
class Stamp:
    """What is installed on a device.

    Attributes:
        runtime: The version of our runtime, with the hash of its content; empty where there is none, or not all of it.
        formats: The parts that are there, or were to come: the artifact formats whose engines are, and ``serve``.
        wheels: SHA-256 by wheel name.
        environment: What the environment was made for; see `Installation.environment`.
    """

    runtime: str = ""
    formats: tuple[str, ...] = ()
    wheels: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""

    def has(self, formats: Sequence[str]) -> bool:
        """Tell whether the runtime, as it is now, and some parts are there."""
        return self.runtime == runtime_version() and set(formats) <= set(self.formats)


@dataclass(frozen=True)
class Policy:
    """How to bring.

    Attributes:
        offline: Whether the host uses its cache alone.
        fresh: Whether an environment that is there is not to be trusted.
    """

    offline: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Place:
    """Where we live on a device.

    Attributes:
        root: Our folder, absolute.
        python: The Python of our environment.
        stamp: What is installed.
        bytes_sent: How much was sent for it just now.
    """

    root: str
    stamp: Stamp
    bytes_sent: int = 0

    @property
    def python(self) -> str:
        """The Python of our environment."""
        return f"{self.root}/venv/bin/python"


def look(device: Device, root: str) -> Place:
    """Find our folder and what is installed there.

    Raises:
        DeviceRequirementError: If the device runs no shell commands.
    """
    done = device.exec(["sh", "-c", LOOK, root, ""])
    return read_place(device.name, done.stdout, done.stderr.decode(errors="replace") or f"status {done.exit_status}")


def start(root: str, question: bytes, formats: Sequence[str]) -> list[str]:
    """Return what looks, and starts the agent with its first question where all that is needed is there; see `LOOK`."""
    return ["sh", "-c", LOOK, root, question.decode(), runtime_version(), *formats]


def read_place(device: str, told: bytes, complaint: str) -> Place:
    """Read what `LOOK` told.

    Raises:
        DeviceRequirementError: If it told nothing, with its last complaint.
    """
    _, found, rest = told.decode(errors="replace").partition(ROOT)
    if not found:
        said = (complaint.strip().splitlines() or ["no word"])[-1][:200]
        fix = "check that its account has a shell, and that sh is on the PATH of SSH commands"
        raise DeviceRequirementError(device, f"cannot run sh ({said})", fix)
    path, _, text = rest.partition("\n")
    return Place(path, _read_stamp(text))


def _read_stamp(text: str) -> Stamp:
    try:
        data = json.loads(text)
        return Stamp(data["runtime"], tuple(data["formats"]), dict(data["wheels"]), data.get("environment", ""))
    except (ValueError, KeyError, TypeError):
        return Stamp()


def ensure(device: Device, root: str, formats: Sequence[str], say: Say) -> Place:
    """Make sure that the runtime, the engines for some artifact formats, and the server are installed on a device.

    Args:
        device: The device.
        root: Its folder, as the inventory has it.
        formats: Such as ``tflite``; ``serve`` for the server.
        say: Takes the progress.

    Raises:
        DeviceRequirementError: If the device has no Python, no space, no writable folder, or no wheel fits it.
    """
    return complete(device, look(device, root), formats, say)


def complete(device: Device, place: Place, formats: Sequence[str], say: Say, policy: Policy | None = None) -> Place:
    """Bring what a place lacks; see `ensure`."""
    how = policy or Policy()
    if place.stamp.has(formats) and not how.fresh:
        return place
    planned, kept = settle(device, Place(place.root, Stamp()) if how.fresh else place)
    served = [SERVE] if SERVE in place.stamp.formats and planned.server else []
    wanted = sorted({*kept.formats, *formats, *served})
    check_formats(device.name, planned, wanted)
    say(_announce(device.name, planned, kept, wanted))
    wheels = wheelhouse.collect(device.name, planned, wanted, how.offline, say)
    stamp = Stamp(runtime_version(), tuple(wanted), {w.path.name: w.sha256 for w in wheels}, planned.environment)
    new = [w for w in wheels if kept.wheels.get(w.path.name) != w.sha256 or w.path.name.startswith("pip-")]
    sent = _bring(device, planned, place.root, new, say)
    request = {"op": "install", "root": place.root, "wheels": _described(new), "stamp": asdict(stamp)}
    made = {"fresh": not kept.runtime, "system_site_packages": planned.system_site_packages}
    done = call(device, planned.platform.python, {**request, **made}, INSTALL_TIMEOUT_S)
    say(f"{device.name}: installed")
    if done["service"]:
        say(f"{device.name}: warning: its service did not come up again ({done['service']}); see: ferry service logs")
    return Place(place.root, stamp, sent)


def settle(device: Device, place: Place) -> tuple[Installation, Stamp]:
    """Return the plan, and what of it is there; an environment that is broken, or of another Python, has nothing.

    Raises:
        DeviceRequirementError: If no Python there will do.
    """
    own = platforms.ask(device, [place.python]) if place.stamp.runtime else []
    plans = [plan(platform) for platform in own]
    if plans and plans[0].environment == place.stamp.environment:
        return choose(device.name, own), place.stamp
    return choose(device.name, platforms.ask(device)), Stamp()


def check_formats(device: str, planned: Installation, formats: Sequence[str]) -> None:
    """Refuse formats for which there is no engine, and to serve where that cannot be.

    Raises:
        DeviceRequirementError: If there is one.
    """
    for name in formats:
        if not planned.can(name):
            raise DeviceRequirementError(device, *refusal(planned.platform, name))


def _announce(device: str, planned: Installation, kept: Stamp, formats: Sequence[str]) -> str:
    new = [planned.brought[name].engine for name in formats if name not in kept.formats and name in planned.brought]
    new += ["the server"] * (SERVE in formats and SERVE not in kept.formats)
    what = " and ".join(["the runtime"] * (kept.runtime != runtime_version()) + new) or "nothing new"
    return f"{device}: installing {what} for Python {planned.platform.dotted} on {planned.platform.arch}"


def _bring(device: Device, planned: Installation, root: str, wheels: Sequence[Wheel], say: Say) -> int:
    """Send the wheels that are not there yet, those of an interrupted installation being there; return the bytes."""
    request = {"op": "prepare", "root": root, "wheels": _described(wheels)}
    answer = call(device, planned.platform.python, request, PREPARE_TIMEOUT_S)
    missing = [wheel for wheel in wheels if wheel.sha256 in answer["missing"]]
    size = sum(wheel.path.stat().st_size for wheel in missing)
    if missing:
        say(f"{device.name}: sending {len(missing)} wheels, {size / 1e6:.1f} MB")
    for wheel in missing:
        if wheel.path.stat().st_size > LARGE_BYTES:
            say(f"{device.name}: sending {wheel.path.name.split('-')[0]}, {wheel.path.stat().st_size / 1e6:.1f} MB")
        device.put(wheel.path, f"{answer['incoming']}/{wheel.sha256}.part")
    return size


def _described(wheels: Sequence[Wheel]) -> dict[str, Any]:
    return {wheel.sha256: wheel.to_dict() for wheel in wheels}


def call(device: Device, python: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Run one operation of `edgeferry_devices.bootstrap` on a device, and return its result.

    Raises:
        DeviceRequirementError: If the device refuses it.
        RemoteCommandError: If its Python fails.
    """
    script = importlib.resources.files("edgeferry_devices").joinpath("bootstrap.py").read_bytes()
    done = device.exec([python, "-I", "-", json.dumps(request)], stdin=script, timeout=timeout)
    found = next(_answers(done.stdout), None)
    if found is None:
        done.check(device.name)
        raise DeviceRequirementError(device.name, f"{shlex.quote(python)} answered nothing", "check the Python there")
    if "error" in found:
        raise DeviceRequirementError(device.name, found["error"]["reason"], found["error"]["fix"])
    result: dict[str, Any] = found["result"]
    return result


def _answers(said: bytes) -> Iterator[Any]:
    """Yield our lines of JSON among whatever else a login shell prints."""
    for line in said.decode(errors="replace").splitlines():
        if line.startswith('{"edgeferry":'):
            yield json.loads(line)["edgeferry"]
