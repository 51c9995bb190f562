"""Brings files to a device by their content: into a folder of our own, checked there again, and only where missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeferry_devices.device import Completed, Device, Say
from edgeferry_devices.folders import folder_of
from edgeferry_runtime.errors import DeviceRequirementError
from edgeferry_runtime.store import MARKER

PREPARE = f"""\
umask 077
case "$1" in "~/"*) root="$HOME/${{1#??}}";; *) root="$1";; esac
mkdir -p "$root" || exit 1
[ -e "$root/{MARKER}" ] || [ -z "$(ls -A "$root")" ] || exit 99
: >"$root/{MARKER}" && mkdir -p "$root/$2" || exit 1
echo "$root/$2"
[ ! -f "$root/$2/$3" ] || sha256sum <"$root/$2/$3"
"""
FOREIGN = 99
ADMIT = 'h=$(sha256sum <"$1") && [ "${h%% *}" = "$2" ] && chmod "$3" "$1" && mv -f "$1" "${1%.part}"'
TIMEOUT_S = 300.0
"""Hashing is slow on the smallest boards."""


@dataclass(frozen=True)
class Blob:
    """A file and what it should be.

    Attributes:
        path: The file, on this machine.
        sha256: The hash of its content, which names its folder on the device.
        name: Its name there.
        mode: Its mode there, in octal digits.
    """

    path: Path
    sha256: str
    name: str
    mode: str = "600"


def place(device: Device, blob: Blob, say: Say) -> str:
    """Bring a file to where its hash says, unless it is there.

    Args:
        device: The device.
        blob: The file.
        say: Takes the progress.

    Returns:
        Where it lies on the device, absolute.

    Raises:
        DeviceRequirementError: If the device's folder holds what is not ours or cannot be made, or the file does not
            arrive as it is.
    """
    folder, found = _prepare(device, blob)
    remote = f"{folder}/{blob.name}"
    if found == blob.sha256:
        return remote
    say(f"{device.name}: sending {blob.path.name} ({blob.path.stat().st_size / 1e6:.1f} MB)")
    device.put(blob.path, f"{remote}.part")
    if _script(device, ADMIT, f"{remote}.part", blob.sha256, blob.mode).exit_status:
        reason = f"{blob.path.name} arrived damaged: its SHA-256 differs, or there is no sha256sum"
        raise DeviceRequirementError(device.name, reason, "try again")
    return remote


def _prepare(device: Device, blob: Blob) -> tuple[str, str]:
    """Make the folder, and return it and the hash of the file that is there."""
    root = folder_of(device)
    done = _script(device, PREPARE, root, blob.sha256, blob.name)
    fix = "give the device another --root"
    if done.exit_status == FOREIGN:
        raise DeviceRequirementError(device.name, f"{root} holds files that are not ours", f"empty it, or {fix}")
    folder, _, found = done.stdout.decode(errors="replace").partition("\n")
    if done.exit_status or not folder:
        said = done.stderr.decode(errors="replace").strip().rpartition(": ")[2] or f"status {done.exit_status}"
        raise DeviceRequirementError(device.name, f"{root} cannot be made ({said})", fix)
    return folder, found.partition(" ")[0]


def _script(device: Device, text: str, *arguments: str) -> Completed:
    return device.exec(["sh", "-c", text, "sh", *arguments], timeout=TIMEOUT_S)
