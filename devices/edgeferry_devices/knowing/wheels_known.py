"""For which Pythons and systems there are wheels of the engines, as far as is known without asking a package index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ARM_32 = ("armv7l", "armv8l", "aarch64")


@dataclass(frozen=True)
class Wheels:
    """What an engine is published for.

    Attributes:
        engine: Its name.
        format: The artifacts that it runs.
        pythons: The oldest and the newest minor version of Python 3.
        machines: By bits of the userland, the machines.
        glibc: The oldest minor version of glibc 2.
    """

    engine: str
    format: str
    pythons: tuple[int, int]
    machines: Mapping[int, tuple[str, ...]]
    glibc: int

    def lack(self, python: Mapping[str, Any]) -> str:
        """Say why none fits a Python of `edgeferry_devices.knowing.python_facts`; nothing where one does."""
        minor, (oldest, newest) = python["version"][1], self.pythons
        if not oldest <= minor <= newest:
            return f"needs Python 3.{oldest} to 3.{newest}"
        if python["machine"] not in self.machines.get(python["bits"], ()):
            return f"is not there for {python['bits']}-bit {python['machine']}"
        if glibc(python) < self.glibc:
            return f"needs glibc 2.{self.glibc}"
        return ""


KNOWN = (
    Wheels("LiteRT", "tflite", (10, 14), {64: ("aarch64", "x86_64")}, 27),
    Wheels("tflite-runtime", "tflite", (10, 11), {32: ARM_32, 64: ("aarch64", "x86_64")}, 27),
    Wheels("ONNX Runtime", "onnx", (10, 14), {64: ("aarch64", "x86_64")}, 27),
)
"""In the order of preference. 32-bit wheels of NumPy do not exist: it comes from the distribution there."""


def glibc(python: Mapping[str, Any]) -> int:
    """Return the minor version of glibc 2 that a Python runs on; 0 where it is another C library."""
    name, _, version = str(python.get("libc", "")).partition(" ")
    minor = version.partition(".")[2].partition(".")[0]
    return int(minor) if name == "glibc" and minor.isdigit() else 0


def fitting(python: Mapping[str, Any]) -> dict[str, str]:
    """Return the engine for each format of artifact that has one for this Python."""
    found: dict[str, str] = {}
    for wheels in KNOWN:
        if not wheels.lack(python):
            found.setdefault(wheels.format, wheels.engine)
    return found


def lacks(python: Mapping[str, Any], artifact: str) -> str:
    """Say of each engine for a format of artifact why it does not fit."""
    told = [(wheels.engine, wheels.lack(python)) for wheels in KNOWN if wheels.format == artifact]
    return ", ".join(f"{engine} {why}" for engine, why in told if why)
