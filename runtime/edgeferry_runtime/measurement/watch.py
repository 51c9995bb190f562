"""What the machine and its scheduler did while something was measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeferry_runtime.machine import ROOT

SAMPLE_S = 1.0
"""Seconds between two readings of the machine's state."""


@dataclass
class Watch:
    """Reads the machine's state once a second, between two runs and never inside one.

    A thread would take the core, or Python's lock, from the runs that it watches. The run after a reading may find
    colder caches: one run a second at most.

    Attributes:
        read: Reads the state; see `edgeferry_runtime.machine.state`.
        every_s: Seconds between two readings.
        states: What was read, each with the second at which that was, ``at_s``.
    """

    read: Callable[[], Mapping[str, Any]]
    every_s: float = SAMPLE_S
    states: list[dict[str, Any]] = field(default_factory=list)
    due_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.due_s = self.every_s

    def between(self, spent: float) -> None:
        """Read the state where it is time to."""
        if spent >= self.due_s:
            self.states.append({"at_s": round(spent, 3), **self.read()})
            self.due_s = spent + self.every_s


@dataclass(frozen=True)
class Scheduling:
    """What the scheduler has counted for this process since it began.

    Attributes:
        involuntary: How often a thread of it was put off a core; None where the system does not tell.
        waited_s: Seconds that its threads could have run and waited for a core; None where it does not tell.
        stolen_s: Seconds that a hypervisor gave this machine's cores to other machines; None where it does not tell.
    """

    involuntary: int | None = None
    waited_s: float | None = None
    stolen_s: float | None = None

    def since(self, before: Scheduling) -> Scheduling:
        """Return what was counted after `before`."""
        return Scheduling(
            _more(self.involuntary, before.involuntary),
            _more(self.waited_s, before.waited_s),
            _more(self.stolen_s, before.stolen_s),
        )


Number = TypeVar("Number", int, float)


def _more(now: Number | None, before: Number | None) -> Number | None:
    return None if now is None or before is None else max(now - before, type(now)(0))


def scheduling(root: Path = ROOT) -> Scheduling:
    """Read what the scheduler counts for this process.

    Source: getrusage(2), ``ru_nivcsw``; Linux, Documentation/scheduler/sched-stats.rst, ``/proc/<pid>/schedstat``;
    proc_stat(5), the eighth number of ``cpu``.
    """
    waits = [parse_wait(path) for path in (root / "proc/self/task").glob("*/schedstat")]
    known = [wait for wait in waits if wait is not None]
    return Scheduling(_involuntary(), sum(known) if known else None, parse_stolen(root / "proc/stat"))


def parse_wait(path: Path) -> float | None:
    """Read the seconds of waiting from a ``schedstat``: running and waiting in nanoseconds, then time slices."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text(encoding="ascii").split()[1]) / 1e9
    return None


def parse_stolen(path: Path) -> float | None:
    """Read the stolen seconds of all cores from the first line of ``/proc/stat``, which counts clock ticks."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text(encoding="ascii").split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")
    return None


def _involuntary() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
