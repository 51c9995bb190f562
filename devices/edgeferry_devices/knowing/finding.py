"""What a check says: all is well, something hinders, or something will not work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: Its name.
        verdict: ``ok``, ``warning`` (it works, though less well) or ``failure`` (it will not work).
        reason: What was found.
        fix: What to do about it; empty where nothing is to be done.
    """

    check: str
    verdict: str
    reason: str
    fix: str = ""


def ok(check: str, reason: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", reason)


def warning(check: str, reason: str, fix: str) -> Finding:
    """It works, though less well or not for everything."""
    return Finding(check, "warning", reason, fix)


def failure(check: str, reason: str, fix: str) -> Finding:
    """It will not work."""
    return Finding(check, "failure", reason, fix)
