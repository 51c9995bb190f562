"""Edgeferry's devices: machines reached by name, where bundles are pushed, proven, run and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_devices.asking import Secrets
    from edgeferry_devices.deploying import Goal, deploy
    from edgeferry_devices.device import Device, open_device
    from edgeferry_devices.discovery import Board, discover
    from edgeferry_devices.doctor import Diagnosis, examine
    from edgeferry_devices.each import Pace, each
    from edgeferry_devices.facts import Facts, gather
    from edgeferry_devices.keeping import Release, gc, releases, rollback
    from edgeferry_devices.outcome import Outcome
    from edgeferry_devices.profiling import profile
    from edgeferry_devices.purging import Purged, purge
    from edgeferry_devices.pushing import PushResult, push, terms
    from edgeferry_devices.report import render_report
    from edgeferry_devices.running import run_on_device
    from edgeferry_devices.selecting import select
    from edgeferry_devices.series import Attempt, Series
    from edgeferry_devices.servicing import remove_service, service_status, start_service, stop_service
    from edgeferry_devices.setting_up import Readiness, Setup, set_up

__all__ = [
    "Attempt",
    "Board",
    "Device",
    "Diagnosis",
    "Facts",
    "Goal",
    "Outcome",
    "Pace",
    "Purged",
    "PushResult",
    "Readiness",
    "Release",
    "Secrets",
    "Series",
    "Setup",
    "deploy",
    "discover",
    "each",
    "examine",
    "gather",
    "gc",
    "open_device",
    "profile",
    "purge",
    "push",
    "releases",
    "remove_service",
    "render_report",
    "rollback",
    "run_on_device",
    "select",
    "service_status",
    "set_up",
    "start_service",
    "stop_service",
    "terms",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Attempt": "series",
        "Board": "discovery",
        "Device": "device",
        "Diagnosis": "doctor",
        "Facts": "facts",
        "Goal": "deploying",
        "Outcome": "outcome",
        "Pace": "each",
        "Purged": "purging",
        "PushResult": "pushing",
        "Readiness": "setting_up",
        "Release": "keeping",
        "Secrets": "asking",
        "Series": "series",
        "Setup": "setting_up",
        "deploy": "deploying",
        "discover": "discovery",
        "each": "each",
        "examine": "doctor",
        "gather": "facts",
        "gc": "keeping",
        "open_device": "device",
        "profile": "profiling",
        "purge": "purging",
        "push": "pushing",
        "releases": "keeping",
        "remove_service": "servicing",
        "render_report": "report",
        "rollback": "keeping",
        "run_on_device": "running",
        "select": "selecting",
        "service_status": "servicing",
        "set_up": "setting_up",
        "start_service": "servicing",
        "stop_service": "servicing",
        "terms": "pushing",
    },
)
