"""What a device's Python is, asked of it before anything of ours is there, and which wheels fit it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeferry_runtime.errors import DeviceRequirementError

if TYPE_CHECKING:
    from edgeferry_devices.device import Device

CANDIDATES = ("python3", *(f"python3.{minor}" for minor in range(15, 9, -1)))
OLDEST = (3, 10)
OLDEST_GLIBC = 17
LITERT_GLIBC = 34
"""ai-edge-litert needs glibc 2.34 from 2.1.6 on, though its wheels' tags promise 2.27."""

ASK = """\
import importlib.util, json, os, platform, struct, sys
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (ValueError, OSError):
    libc = ""
print(json.dumps({"edgeferry": {"python": sys.executable, "version": list(sys.version_info[:3]), "system": sys.platform,
    "bits": struct.calcsize("P") * 8, "machine": platform.machine(), "libc": libc,
    "venv": importlib.util.find_spec("venv") is not None}}))
"""
LOOP = 'for p in "$@"; do "$p" -I -c "$0" 2>/dev/null; done; exit 0'


@dataclass(frozen=True)
class Platform:
    """One Python of a device.

    Attributes:
        python: Its path there.
        version: Its version, such as (3, 11, 2).
        system: ``sys.platform``.
        bits: 64 or 32: of the userland, not of the kernel.
        machine: Such as ``aarch64``.
        libc: Such as ``glibc 2.36``; empty where it is another C library.
        venv: Whether it can make virtual environments.
    """

    python: str
    version: tuple[int, int, int]
    system: str
    bits: int
    machine: str
    libc: str
    venv: bool

    @property
    def dotted(self) -> str:
        """The version as text."""
        return ".".join(str(part) for part in self.version)

    @property
    def glibc(self) -> int:
        """The minor version of glibc 2; 0 where it is another C library."""
        name, _, version = self.libc.partition(" ")
        major, _, minor = version.partition(".")
        return int(minor.split(".")[0]) if name == "glibc" and major == "2" and minor else 0

    def tags(self) -> list[str]:
        """Return every platform tag that fits, newest first: pip does not expand them itself."""
        return [
            *(f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, OLDEST_GLIBC - 1, -1)),
            f"manylinux2014_{self.machine}",
            f"linux_{self.machine}",
        ]


def answers(said: bytes) -> Iterator[Any]:
    """Yield our lines of JSON among whatever else a login shell prints."""
    for line in said.decode(errors="replace").splitlines():
        if line.startswith('{"edgeferry":'):
            yield json.loads(line)["edgeferry"]


def ask(device: Device, pythons: Iterable[str] = CANDIDATES) -> list[Platform]:
    """Ask each Python that a device has what it is."""
    done = device.exec(["sh", "-c", LOOP, ASK, *pythons])
    return [Platform(**{**found, "version": tuple(found["version"])}) for found in answers(done.stdout)]


def choose(device: str, found: Iterable[Platform]) -> Platform:
    """Return the first Python that will do.

    Raises:
        DeviceRequirementError: If there is none; says what the nearest one lacks.
    """
    lacks = []
    for platform in found:
        lack = _lacks(platform)
        if not lack:
            return platform
        lacks.append(lack)
    if not lacks:
        fix = "install Python 3.10 or newer there (Debian: sudo apt install python3), on the PATH of SSH commands"
        raise DeviceRequirementError(device, "has no Python 3", fix)
    raise DeviceRequirementError(device, *lacks[0])


def _lacks(platform: Platform) -> tuple[str, str] | None:
    """Return what a Python lacks, and the way out."""
    if platform.version < OLDEST:
        return f"has Python {platform.dotted}, and 3.10 is the oldest that works", "install a newer Python there"
    if platform.bits != 64:
        return "has a 32-bit userland, for which there are no engines", "install the 64-bit system there"
    if platform.system != "linux" or not platform.glibc:
        other = platform.system if platform.system != "linux" else "another C library than glibc"
        return f"has {other}, for which there are no engines", "use a glibc distribution (on Android: under proot)"
    if not platform.venv:
        return "its Python lacks the module venv", "install it there (Debian: sudo apt install python3-venv)"
    return None
