"""Edgeferry's devices: machines reached by name, where bundles are pushed, proven, run and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_devices.device import Device, open_device
    from edgeferry_devices.profiling import profile
    from edgeferry_devices.pushing import PushResult, push
    from edgeferry_devices.running import run_on_device

__all__ = ["Device", "PushResult", "open_device", "profile", "push", "run_on_device"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Device": "device",
        "PushResult": "pushing",
        "open_device": "device",
        "profile": "profiling",
        "push": "pushing",
        "run_on_device": "running",
    },
)
