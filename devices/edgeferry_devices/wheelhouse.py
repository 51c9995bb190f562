"""Wheels for a device's Python, kept in a cache on the host and checked at each use: the device needs no network.

Below ``$XDG_CACHE_HOME/edgeferry/wheels``::

    <platform>/*.whl             such as cp311-glibc2.36-aarch64
    <platform>/<hash>.lock.json  which of them belong together, and what the index promised
    runtime/                     our own

A folder may be copied to another machine, which then needs no network.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeferry_devices import hostpip, lockfile
from edgeferry_devices.alone import alone
from edgeferry_devices.device import Say, silent
from edgeferry_devices.installation import Installation
from edgeferry_devices.lockfile import Lock, Pin
from edgeferry_devices.places import cache_dir
from edgeferry_devices.wheel import build_runtime_wheel
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.errors import DeviceRequirementError


@dataclass(frozen=True)
class Wheel:
    """One wheel to bring.

    Attributes:
        path: Where it lies on the host.
        sha256: Its content.
    """

    path: Path
    sha256: str

    def to_dict(self) -> dict[str, str | int]:
        """Return what the device must know: name, size and unpacked size in bytes."""
        with zipfile.ZipFile(self.path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        return {"name": self.path.name, "size": self.path.stat().st_size, "unpacked": unpacked}


def folder_of(planned: Installation) -> Path:
    """Return where the wheels for a Python lie."""
    return cache_dir() / "wheels" / planned.key


def collect(
    device: str, planned: Installation, formats: Sequence[str], offline: bool = False, say: Say = silent
) -> list[Wheel]:
    """Return the wheels for a Python, from the cache or by pip, and the runtime's own.

    Of several devices at once the first fetches, and the others find what it has brought.

    Args:
        device: The device's name.
        planned: For which Python.
        formats: Of the artifacts that will run, such as ``tflite``.
        offline: Whether to use the cache alone.
        say: Takes the progress.

    Raises:
        DeviceRequirementError: If there is no wheel for it, pip cannot reach its index, or a wheel is not what the
            index promised; offline, if the cache lacks something: says what, and how to fetch it.
        MissingExtraError: If pip is not installed on the host.
    """
    with alone(cache_dir() / "wheels" / ".lock"):
        return [*_engines(device, planned, planned.requirements(formats), offline, say), _own()]


def _engines(device: str, planned: Installation, wanted: Sequence[str], offline: bool, say: Say) -> list[Wheel]:
    folder = folder_of(planned)
    lock = _lock(device, planned, wanted, offline)
    pins = lock.closure(wanted)
    states = {pin: pin.state(folder) for pin in pins}
    unfit = [pin for pin, state in states.items() if state != "whole"]
    for pin in (pin for pin in unfit if states[pin] == "changed"):
        say(f"{device}: {pin.file} in the cache is not what the index promised, and is not used")
    if unfit and offline:
        raise _lacking(device, planned, [f"{pin.name}=={pin.version}" for pin in unfit])
    if unfit:
        _fetch(device, planned, unfit, folder)
    return [Wheel(folder / pin.file, pin.sha256) for pin in pins]


def _own() -> Wheel:
    folder = cache_dir() / "wheels" / "runtime"
    folder.mkdir(parents=True, exist_ok=True)
    path = build_runtime_wheel(folder)
    return Wheel(path, sha256_file(path))


def _lock(device: str, planned: Installation, wanted: Sequence[str], offline: bool) -> Lock:
    """Return what the requirements were resolved to, or resolve them."""
    folder = folder_of(planned)
    if found := lockfile.find(folder, wanted):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    lock = _from_folder(device, planned, wanted) if offline else hostpip.resolve(device, planned, wanted)
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    lock.write(folder / f"{digest}{lockfile.ENDING}")
    return lock


def _from_folder(device: str, planned: Installation, wanted: Sequence[str]) -> Lock:
    """Choose among wheels that were brought by hand."""
    folder = folder_of(planned)
    try:
        return hostpip.resolve(device, planned, wanted, folder)
    except DeviceRequirementError as error:
        raise _lacking(device, planned, wanted) from error


def _lacking(device: str, planned: Installation, what: Sequence[str]) -> DeviceRequirementError:
    folder = folder_of(planned)
    line = hostpip.by_hand(planned, what, folder)
    reason = f"{folder} lacks {', '.join(what)}, and nothing is fetched offline"
    return DeviceRequirementError(device, reason, f"on a machine with a network: {line} - and copy the folder here")


def _fetch(device: str, planned: Installation, pins: Sequence[Pin], folder: Path) -> None:
    """Bring wheels into the cache, each whole or not at all."""
    parts = Path(tempfile.mkdtemp(prefix=".download.", dir=folder))
    try:
        hostpip.fetch(device, planned, pins, parts)
        for pin in pins:
            if pin.state(parts) != "whole":
                reason = f"{pin.file} is not what the index promised: its SHA-256 differs"
                raise DeviceRequirementError(device, reason, hostpip.DIFFERS)
            (parts / pin.file).replace(folder / pin.file)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
