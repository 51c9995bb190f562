"""Which Vulkan drivers a process has loaded: the evidence of whether a GPU or the CPU draws, where nobody says it."""

from __future__ import annotations

import re
from pathlib import Path

MAPS = Path("/proc/self/maps")
DRIVER = re.compile(r"/lib(?:vulkan_(\w+)|GLX_(nvidia))[^/\s]*\.so")
SOFTWARE = {"lvp": "llvmpipe", "swiftshader": "SwiftShader"}
"""Drivers that execute on the CPU."""


def parse_drivers(maps: str) -> frozenset[str]:
    """Read the names of the Vulkan drivers, such as ``lvp`` or ``broadcom``, from ``/proc/self/maps``."""
    return frozenset(found[1] or found[2] for found in DRIVER.finditer(maps))


def adapter_words(drivers: frozenset[str]) -> str:
    """Say what executes: by its driver where one is loaded, else that it is not known."""
    if len(drivers) != 1:
        among = f" ({' or '.join(sorted(drivers))})" if drivers else ""
        return f"an adapter that is not named{among}"
    name = next(iter(drivers))
    return f"{SOFTWARE[name]}, software on the CPU" if name in SOFTWARE else f"GPU of the Vulkan driver {name}"


def adapter() -> str:
    """Say what executes the Vulkan of this process."""
    try:
        return adapter_words(parse_drivers(MAPS.read_text(errors="replace")))
    except OSError:
        return adapter_words(frozenset())
