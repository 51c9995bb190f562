"""Writes down what is begun on several devices and what comes of each, so that a run that was cut can be picked up.

Lines are only ever appended, and each is on the disk before the next device's end is taken note of; see `runs`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from edgeferry_devices import runs
from edgeferry_devices.each import Pace
from edgeferry_devices.history import new_run
from edgeferry_devices.outcome import Outcome
from edgeferry_devices.runs import SCHEMA, Run, Task
from edgeferry_devices.session import take_lock
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.store import sync

KEPT = 50
"""Journals that are kept; older ones go when a run begins."""


class Journal:
    """A run that this process performs; closing it lets another one pick it up.

    Args:
        run: The run, as far as it had come.
        file: Its file, open and locked; without it nothing is written.
    """

    def __init__(self, run: Run, file: IO[str] | None = None) -> None:
        self.run = run
        self._file = file

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def kept(self) -> bool:
        """Whether the run can be picked up."""
        return self._file is not None

    @property
    def pace(self) -> Pace:
        """How to go about what is left; each device that has ended is taken note of."""
        return Pace(self.run.task.jobs, self.run.canaries_left, self.record)

    def record(self, outcome: Outcome[Any]) -> None:
        """Take note of a device whose work has ended."""
        self.write({"device": outcome.device, "error": outcome.kind})

    def finish(self) -> None:
        """Take note that the command came to its end, whatever came of its devices."""
        self.write({"finished": _now()})

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def begin(task: Task) -> Journal:
    """Begin a run; one of a single device is not written down, since there is nothing of it to be picked up."""
    run = Run(new_run(), _now(), task, {}, Path())
    if len(task.devices) < 2:
        return Journal(run)
    folder = runs.runs_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _prune()
    file = _open(folder / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}-{run.id}.jsonl", os.O_CREAT | os.O_EXCL)
    take_lock(file)
    journal = Journal(run, file)
    journal.write({"schema": SCHEMA, "run": run.id, "at": run.at, "task": asdict(task)})
    sync(folder)
    return journal


def pick_up(name: str | None = None) -> Journal:
    """Take up a run that was cut, or on some devices of which it failed.

    Args:
        name: See `runs.find`.

    Raises:
        UnknownNameError: If there is no such run.
        UsageError: If there is nothing left to be done, or a process performs it.
    """
    run = runs.find(name)
    if not run.left:
        raise UsageError(f"run {run.id}", "is complete", f"begin another with: ferry {run.task.command}")
    file = _open(run.path)
    if not take_lock(file):
        file.close()
        raise UsageError(f"run {run.id}", "is being performed by another process", "wait for it to end, or end it")
    if not run.path.read_bytes().endswith(b"\n"):
        file.write("\n")  # what was being written when the machine went down stays a line of its own
    return Journal(runs.read(run.path), file)


def _prune() -> None:
    for path in runs.paths()[: -KEPT + 1]:
        if not runs.is_running(path):
            path.unlink(missing_ok=True)


def _open(path: Path, flags: int = 0) -> IO[str]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | flags, 0o600), "a", encoding="utf-8")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
