"""A device's service in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_runtime.commands.output import say

WAYS = {"systemd": "kept by systemd", "background": "in the background"}


def status_text(told: Mapping[str, Any]) -> str:
    """Say in one line how the service of a device fares."""
    device = told["device"]
    if not told["installed"]:
        return f"{device}: has no service" if not told.get("removed") else f"{device}: the service is removed"
    if not told["running"]:
        return f"{device}: its service is stopped"
    state = "ready" if told["ready"] else "not ready"
    return f"{device}: {state} at {told['url']}, {WAYS[told['way']]}, pid {told['pid']}"


def say_notes(device: str, told: Mapping[str, Any]) -> None:
    """Say on stderr what the user should know of a service."""
    for note in told.get("notes", ()):
        say(f"{device}: {note}")
    if told.get("token"):
        say(f"{device}: clients must show a token: ferry service token {device}")
