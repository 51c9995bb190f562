"""A distribution inside a device: on a phone, what proot-distro runs in Termux. Everything that executes goes in here.

Files need no wrapping: proot-distro shows Termux's home at its own path, so that one absolute path serves both sides.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeferry_runtime.errors import DeviceRequirementError, UsageError

if TYPE_CHECKING:
    from edgeferry_devices.device import Device

_INSIDE = re.compile(r"proot:[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ENTER = 'exec proot-distro login "$0" -- env "HOME=$HOME" sh -c "$1" "$2"'
"""Runs outside. The home is Termux's, which the distribution's account would not have."""
BEGIN = 'eval "exec $(echo "$0" | base64 -d)"'
"""Runs inside. Older versions of proot-distro put each argument between quotes as it is, so that none may hold one."""
LIST = (
    'for d in "$PREFIX"/var/lib/proot-distro/containers/* "$PREFIX"/var/lib/proot-distro/installed-rootfs/*; do '
    '[ -d "$d" ] && echo "${d##*/}"; done; exit 0'
)
PREFERRED = ("debian", "ubuntu")

NO_SERVICE = (
    "cannot serve: what runs in a distribution inside ends with the login that started it",
    "run models there (ferry run --device), and serve from a device whose own system can",
)
"""proot-distro ends every process of a login when the login ends."""


def check_serving(device: str, inside: str) -> None:
    """Refuse a service in a distribution.

    Raises:
        DeviceRequirementError: If there is one.
    """
    if inside:
        raise DeviceRequirementError(device, *NO_SERVICE)


def check_inside(text: str) -> str:
    """Return what names a distribution if it does; empty stands for none.

    Raises:
        UsageError: If it does not.
    """
    if text and not _INSIDE.fullmatch(text):
        raise UsageError(f"--inside {text!r}", "is not proot:DISTRIBUTION", "give one such as proot:debian")
    return text


def wrap(inside: str, argv: Sequence[str]) -> list[str]:
    """Return the argument list that executes a command inside; the same one where there is no inside.

    Args:
        inside: Such as ``proot:debian``; empty for the device itself.
        argv: The program and its arguments, which reach it as they are.
    """
    if not inside:
        return list(argv)
    line = base64.b64encode(shlex.join(argv).encode()).decode()
    return ["sh", "-c", ENTER, inside.partition(":")[2], BEGIN, line]


def find(device: Device) -> str:
    """Return the distribution that proot-distro has on a device, Debian and Ubuntu first; empty where it has none.

    Args:
        device: The device itself, outside of any.
    """
    said = device.exec(["sh", "-c", LIST]).stdout.decode(errors="replace").splitlines()
    found = sorted(f"proot:{name}" for name in said if _INSIDE.fullmatch(f"proot:{name}"))
    return min(found, key=lambda name: not name.partition(":")[2].startswith(PREFERRED), default="")
