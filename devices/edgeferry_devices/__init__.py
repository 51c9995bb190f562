"""Edgeferry's devices: machines reached by name, where bundles are pushed, proven, run and measured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Device": "device",
    "PushResult": "pushing",
    "open_device": "device",
    "profile": "profiling",
    "push": "pushing",
    "run_on_device": "running",
}

if TYPE_CHECKING:
    from edgeferry_devices.device import Device, open_device
    from edgeferry_devices.profiling import profile
    from edgeferry_devices.pushing import PushResult, push
    from edgeferry_devices.running import run_on_device

__all__ = ["Device", "PushResult", "open_device", "profile", "push", "run_on_device"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that no command pays for SSH without need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
