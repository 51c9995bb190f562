"""What came of each of several devices, and what that makes of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgeferry_runtime.errors import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceRequirementError,
    DeviceTimeoutError,
    EdgeferryError,
    EngineCrashError,
    EngineError,
    GateError,
    HostKeyError,
    NotTriedError,
    RemoteCommandError,
    UnreachableError,
    VerificationError,
)

T = TypeVar("T")

KINDS: tuple[tuple[type[EdgeferryError], str], ...] = (
    (DeviceTimeoutError, "no answer in time"),
    (UnreachableError, "unreachable"),
    (AuthenticationError, "not let in"),
    (HostKeyError, "host key"),
    (DeviceBusyError, "busy"),
    (DeviceRequirementError, "cannot take it"),
    (RemoteCommandError, "a command failed there"),
    (DeviceError, "refused"),
    (VerificationError, "probe failed"),
    (GateError, "a gate failed"),
    (EngineCrashError, "engine died"),
    (EngineError, "engine refused"),
    (EdgeferryError, "failed"),
)
"""In few words, what kind of failure an error is; the first that fits."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one device.

    Attributes:
        device: Its name.
        value: What was to be had from it; None where there is an error.
        error: What prevented that; `NotTriedError` where nothing was begun there.
    """

    device: str
    value: T | None = None
    error: EdgeferryError | None = None

    @property
    def failed(self) -> bool:
        """Whether it was tried in vain."""
        return self.error is not None and not isinstance(self.error, NotTriedError)

    @property
    def kind(self) -> str:
        """In few words, what kind of failure it is; empty where it is none."""
        return next(words for kind, words in KINDS if isinstance(self.error, kind)) if self.failed else ""

    def result(self) -> T:
        """Return the value.

        Raises:
            EdgeferryError: What prevented it.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value

    def error_dict(self) -> dict[str, Any] | None:
        """Return the JSON form of the error, None where there is none."""
        error = self.error
        if error is None:
            return None
        return {
            "kind": self.kind or "not tried",
            "reason": error.reason,
            "fix": error.fix,
            "exit_code": error.exit_code if self.failed else 0,
        }


def summary(outcomes: Sequence[Outcome[Any]]) -> str:
    """Return one line: ``48 of 50 succeeded; failed: 2 (unreachable: pi7; probe failed: pi9)``."""
    failed = [outcome for outcome in outcomes if outcome.failed]
    untried = [outcome.device for outcome in outcomes if outcome.error and not outcome.failed]
    line = f"{len(outcomes) - len(failed) - len(untried)} of {len(outcomes)} succeeded"
    if failed:
        kinds = dict.fromkeys(outcome.kind for outcome in failed)
        told = (f"{kind}: {', '.join(o.device for o in failed if o.kind == kind)}" for kind in kinds)
        line += f"; failed: {len(failed)} ({'; '.join(told)})"
    return f"{line}; not tried: {len(untried)} ({', '.join(untried)})" if untried else line


def exit_code(outcomes: Sequence[Outcome[Any]]) -> int:
    """Return the exit code of the first device that failed, in the order in which they were named; 0 without one."""
    return next((o.error.exit_code for o in outcomes if o.failed and o.error), 0)
