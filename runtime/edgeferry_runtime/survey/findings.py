"""What a survey of a machine finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One engine or delegate.

    Attributes:
        name: Of an engine in words, of a delegate as ``--delegate`` takes it.
        kind: ``engine``, or the format of the files that a delegate executes, ``tflite`` or ``onnx``.
        usable: Whether it was tried and works; None where it was not tried.
        version: Of an engine; None where it is not installed.
        detail: What executes, in words.
        reason: Why it cannot be used, or was not tried.
        fix: What to do about it.
    """

    name: str
    kind: str
    usable: bool | None
    version: str | None = None
    detail: str | None = None
    reason: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Survey:
    """What a machine can do, and why not the rest.

    Attributes:
        engines: Every engine, installed or not.
        delegates: Every delegate, for each format.
        machine: What `edgeferry_runtime.machine.describe` tells.
    """

    engines: tuple[Finding, ...]
    delegates: tuple[Finding, ...]
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
