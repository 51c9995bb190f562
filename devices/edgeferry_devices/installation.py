"""What is to be installed for one Python of a device, as data; the doctor and the installation both ask here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeferry_devices.knowing.wheels_known import FORMATS, RUNS, SERVE, SERVER, SERVER_PARTS, Wheels, fitting, lacks
from edgeferry_devices.platforms import OLDEST, Platform
from edgeferry_runtime.errors import DeviceRequirementError

NUMPY = "numpy>=1.24"
OLDEST_NUMPY = (1, 24)
TOOLS = ("click>=8.1", "pip>=24")
"""What the runtime needs beside NumPy, and what installs it: the same wheels everywhere."""
APT_NUMPY = "install it there (Debian: sudo apt install python3-numpy)"
TERMUX = (
    "type in Termux: pkg install proot-distro && proot-distro install debian && "
    "proot-distro login debian -- sh -c 'apt update && apt install -y python3 python3-venv'; then: ferry device setup "
    "NAME (for ONNX alone this will do instead: pkg install python python-numpy python-onnxruntime)"
)


@dataclass(frozen=True)
class Installation:
    """The plan for one Python.

    Attributes:
        platform: The Python.
        base: What the runtime itself requires, as pip's requirements.
        brought: By format, the wheels of the engine that runs it.
        present: By format, the engine that the system has itself, where there are no wheels.
        system_site_packages: Whether our environment sees the packages of the system; NumPy is one of them then.
        server: What ``serve`` requires, the part that is brought only where it is asked for; empty where it cannot be
            had.
    """

    platform: Platform
    base: tuple[str, ...]
    brought: Mapping[str, Wheels] = field(default_factory=dict)
    present: Mapping[str, str] = field(default_factory=dict)
    system_site_packages: bool = False
    server: tuple[str, ...] = ()

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that it can run, in the order of the alphabet."""
        return tuple(sorted({*self.brought, *self.present}))

    @property
    def environment(self) -> str:
        """What our environment depends on: where this changes it is made anew."""
        major, minor, _ = self.platform.version
        return f"python {major}.{minor}{' with the system' if self.system_site_packages else ''}"

    @property
    def key(self) -> str:
        """The name of what wheels are chosen by, for a folder of the cache."""
        major, minor, _ = self.platform.version
        libc = f"glibc2.{self.platform.glibc}" if self.platform.glibc else self.platform.system
        return f"cp{major}{minor}-{libc}-{self.platform.arch}"

    def can(self, part: str) -> bool:
        """Tell whether it can have a part: run a format, or serve."""
        return bool(self.server) if part == SERVE else part in self.formats

    def requirements(self, parts: Iterable[str]) -> tuple[str, ...]:
        """Return pip's requirements for some parts: formats, and ``serve``.

        Raises:
            KeyError: If it cannot run one of the formats.
        """
        wanted = set(parts)
        formats = sorted(wanted - {SERVE, *self.present})
        engines = [self.brought[name].requirement for name in formats]
        return (*self.base, *engines, *(self.server if SERVE in wanted else ()))


def plan(platform: Platform) -> Installation:
    """Return what would be installed for a Python; where nothing fits it has no formats."""
    brought = fitting(platform)
    if platform.bits == 32 and brought:
        return Installation(platform, TOOLS, brought, system_site_packages=True)
    if brought:
        server = () if SERVER.lack(platform) else SERVER_PARTS
        return Installation(platform, (NUMPY, *TOOLS), brought, server=server)
    return Installation(platform, TOOLS, present=_own(platform), system_site_packages=True)


def _own(platform: Platform) -> dict[str, str]:
    """Return the engines that the system itself has, such as Termux's packages."""
    usable = [name for name in platform.engines if name in RUNS and not platform.imports.get(name)]
    return {RUNS[name]: name for name in reversed(usable)} if numpy_lack(platform, usable) is None else {}


def numpy_lack(platform: Platform, engines: Sequence[str] = ()) -> tuple[str, str] | None:
    """Say what is wrong with the system's own NumPy, and the way out.

    Args:
        platform: The Python.
        engines: The engines that are to use it.
    """
    found = tuple(int(part) for part in re.findall(r"\d+", platform.numpy)[:2])
    old = "tflite_runtime" in engines
    if not found:
        return "NumPy is missing, and has no wheels for this system", APT_NUMPY
    if found < OLDEST_NUMPY:
        return f"NumPy {platform.numpy} is installed, and 1.24 is the oldest that works", "use a newer system there"
    if old and found >= (2,):
        fix = "install NumPy 1 there (in an environment of its own), or use the 64-bit system and LiteRT"
        return f"NumPy {platform.numpy} is installed, and tflite-runtime needs NumPy 1", fix
    return None


def unfit(platform: Platform) -> tuple[str, str] | None:
    """Say why a Python cannot be used at all, whatever engines there are, and the way out."""
    if platform.version < OLDEST:
        return f"has Python {platform.dotted}, and 3.10 is the oldest that works", "install a newer Python there"
    if not platform.venv:
        fix = "install it there (Debian: sudo apt install python3-venv); ensurepip and pip are not needed"
        return f"its Python {platform.dotted} lacks the module venv", fix
    return None


def refusal(platform: Platform, artifact: str) -> tuple[str, str]:
    """Say why artifacts of a format will not run with a Python for which there is no engine, and the way out."""
    if artifact == SERVE:
        return _no_server(platform)
    what = f"{FORMATS[artifact]} bundles will not run"
    if platform.system == "android":
        return f"{what}: there are no wheels for Android's C library", TERMUX
    if platform.system != "linux":
        return f"{what}: there are no engines for {platform.system}", "use a Linux system"
    if not platform.glibc:
        reason = f"{what}: there are no wheels for {platform.libc or 'a C library other than glibc'}"
        return reason, "use a distribution with glibc there, such as Debian or Ubuntu"
    if platform.bits == 32:
        fix = "install the 64-bit system there; on 32-bit Arm TFLite runs with Python 3.10 or 3.11 and NumPy 1"
        return f"{what}: {lacks(platform, artifact)}", fix
    fix = "install a Python from 3.10 to 3.14 on a system with glibc 2.27 or newer there"
    return f"{what}: {lacks(platform, artifact)}", fix


def _no_server(platform: Platform) -> tuple[str, str]:
    """Say why a Python cannot serve, and the way out."""
    if platform.system == "android":
        fix = "serve from another device; models run all the same, in Termux or in a distribution inside"
        return "cannot serve: grpcio, uvloop and httptools have no wheels for Android's C library", fix
    if platform.bits == 32:
        fix = "install the 64-bit system there; models run all the same: ferry run --device"
        return f"cannot serve: grpcio, uvloop and httptools have no wheels for 32-bit {platform.arch}", fix
    fix = "use a Python from 3.10 to 3.14 on a 64-bit system with glibc there"
    lack = SERVER.lack(platform)
    return f"cannot serve: {f'the server {lack}' if lack else 'there is no engine'}", fix


def lack(installation: Installation) -> tuple[str, str] | None:
    """Say what a Python lacks, and the way out; None where it will do."""
    platform = installation.platform
    if told := unfit(platform):
        return told
    if not installation.formats:
        reason, fix = refusal(platform, next(iter(FORMATS)))
        return reason.replace(f"{next(iter(FORMATS.values()))} bundles", "bundles"), fix
    if installation.system_site_packages:
        return numpy_lack(platform, ["tflite_runtime"] if platform.bits == 32 else [])
    return None


def preference(platform: Platform) -> tuple[bool, bool]:
    """Return what Pythons are sorted by: first those that will do, last those that are too old."""
    return lack(plan(platform)) is not None, platform.version < OLDEST


def choose(device: str, found: Iterable[Platform]) -> Installation:
    """Return the plan for the first Python that will do.

    Raises:
        DeviceRequirementError: If there is none; says what the nearest one lacks.
    """
    plans = [plan(platform) for platform in sorted(found, key=preference)]
    reason = lack(plans[0]) if plans else NO_PYTHON
    if reason is not None:
        raise DeviceRequirementError(device, *reason)
    return plans[0]


NO_PYTHON = (
    "has no Python 3",
    "install Python 3.10 or newer there (Debian: sudo apt install python3), on the PATH of SSH commands",
)
