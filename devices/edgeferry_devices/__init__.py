"""Edgeferry's devices: machines reached by name, where bundles are pushed, proven, run and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_devices.asking import Secrets
    from edgeferry_devices.deploying import Deployment, deploy
    from edgeferry_devices.device import Device, open_device
    from edgeferry_devices.discovery import Board, discover
    from edgeferry_devices.doctor import Diagnosis, examine
    from edgeferry_devices.facts import Facts, gather
    from edgeferry_devices.keeping import Release, gc, releases, rollback
    from edgeferry_devices.profiling import profile
    from edgeferry_devices.pushing import PushResult, push
    from edgeferry_devices.running import run_on_device

__all__ = [
    "Board",
    "Deployment",
    "Device",
    "Diagnosis",
    "Facts",
    "PushResult",
    "Release",
    "Secrets",
    "deploy",
    "discover",
    "examine",
    "gather",
    "gc",
    "open_device",
    "profile",
    "push",
    "releases",
    "rollback",
    "run_on_device",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Board": "discovery",
        "Deployment": "deploying",
        "Device": "device",
        "Diagnosis": "doctor",
        "Facts": "facts",
        "PushResult": "pushing",
        "Release": "keeping",
        "Secrets": "asking",
        "deploy": "deploying",
        "discover": "discovery",
        "examine": "doctor",
        "gather": "facts",
        "gc": "keeping",
        "open_device": "device",
        "profile": "profiling",
        "push": "pushing",
        "releases": "keeping",
        "rollback": "keeping",
        "run_on_device": "running",
    },
)
