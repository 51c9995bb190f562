"""What a device's Python is, asked of it before anything of ours is there, and which platform tags fit it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from edgeferry_devices.knowing.python_facts import parse_pythons, probe

if TYPE_CHECKING:
    from edgeferry_devices.device import Device

CANDIDATES = ("python3", *(f"python3.{minor}" for minor in range(15, 9, -1)))
OLDEST = (3, 10)
OLDEST_GLIBC = 17
ARM_32 = ("armv7l", "armv8l", "aarch64")
"""What the kernel may say under a 32-bit Arm system: it may be a 64-bit one."""
LABELLED_GLIBC = 34
"""The 32-bit wheels of tflite-runtime say glibc 2.34, though 2.27 suffices."""
LOOP = 'for p in "$@"; do "$p" -I -c "$probe" </dev/null 2>/dev/null; done; exit 0\n'
ASK_TIMEOUT_S = 200.0


@dataclass(frozen=True)
class Platform:
    """One Python of a device.

    Attributes:
        python: Its path there.
        version: Its version, such as (3, 11, 2).
        system: ``sys.platform``; ``android`` in Termux.
        bits: 64 or 32: of the userland, not of the kernel.
        machine: What the kernel says, such as ``aarch64``.
        libc: Such as ``glibc 2.36``; empty where it is another C library.
        venv: Whether it can make virtual environments.
        numpy: The version of NumPy that it sees; empty where there is none.
        engines: The versions of the engines that it sees.
        imports: What goes wrong when these are imported, or nothing; empty where that was not tried.
    """

    python: str
    version: tuple[int, int, int]
    system: str
    bits: int
    machine: str
    libc: str
    venv: bool
    numpy: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Platform:
        """Read what a Python told of itself; see `edgeferry_devices.knowing.python_facts`."""
        known = {part.name: told[part.name] for part in fields(cls) if told.get(part.name) is not None}
        return cls(**{**known, "version": tuple(told["version"])})

    @property
    def dotted(self) -> str:
        """The version as text."""
        return ".".join(str(part) for part in self.version)

    @property
    def arch(self) -> str:
        """The architecture of the userland, as wheels name it."""
        return "armv7l" if self.bits == 32 and self.machine in ARM_32 else self.machine

    @property
    def glibc(self) -> int:
        """The minor version of glibc 2; 0 where it is another C library."""
        name, _, version = self.libc.partition(" ")
        major, _, minor = version.partition(".")
        known = name == "glibc" and major == "2" and minor.split(".")[0].isdigit()
        return int(minor.split(".")[0]) if known else 0

    def tags(self) -> tuple[str, ...]:
        """Return every platform tag that fits, newest first: pip does not expand them itself."""
        newest = max(self.glibc, LABELLED_GLIBC) if self.arch == "armv7l" else self.glibc
        many = (f"manylinux_2_{minor}_{self.arch}" for minor in range(newest, OLDEST_GLIBC - 1, -1))
        return (*many, f"manylinux2014_{self.arch}", f"linux_{self.arch}")


def ask(device: Device, pythons: Iterable[str] = CANDIDATES) -> list[Platform]:
    """Ask each Python that a device has what it is; engines are not imported."""
    script = f"probe={shlex.quote(probe())}\n{LOOP}"
    done = device.exec(["sh", "-s", "--", *pythons], stdin=script.encode(), timeout=ASK_TIMEOUT_S)
    found = parse_pythons(done.stdout.decode(errors="replace"))["pythons"]
    return [Platform.of(python) for python in found]
