"""What was begun on several devices and what came of each, as its journal tells it.

A journal is one file in ``$XDG_STATE_HOME/edgeferry/runs/``: JSON lines, the task first, then one for each device whose
work has ended. It is locked as long as a process performs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeferry_devices.device import Say, silent
from edgeferry_devices.each import JOBS
from edgeferry_devices.places import state_dir
from edgeferry_devices.session import take_lock
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, MissingFileError, UnknownNameError, UsageError

T = TypeVar("T")

SCHEMA = 1
COMMANDS = ("deploy", "profile")

_FILE = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(?P<run>[0-9a-f]{16})\.jsonl")


@dataclass(frozen=True)
class Planned:
    """A bundle of a task."""

    path: str
    name: str
    id: str


@dataclass(frozen=True)
class Task:
    """What is to be done: all that is needed to begin it again.

    Attributes:
        command: ``deploy`` or ``profile``.
        bundles: The bundles.
        devices: Names of devices, in order, the canaries first.
        options: What else the command was told, as JSON takes it.
        canary: How many of the devices come before all others.
        jobs: How many at once.
    """

    command: str
    bundles: tuple[Planned, ...]
    devices: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    canary: int = 0
    jobs: int = JOBS

    @classmethod
    def of(cls, command: str, bundles: Sequence[Bundle], devices: Sequence[str], **more: Any) -> Task:
        """Task a command for bundles that lie where they do now."""
        planned = (Planned(str(bundle.path.resolve()), bundle.manifest.name, bundle.id) for bundle in bundles)
        return cls(command, tuple(planned), tuple(devices), **more)


@dataclass(frozen=True)
class Run:
    """A run as its journal tells it.

    Attributes:
        id: Its name.
        at: When it was begun.
        task: What was to be done.
        ended: Of each device that has ended, what kind of failure it was; empty where it succeeded.
        path: Its file.
        finished: Whether the command that was the last to perform it came to its end.
    """

    id: str
    at: str
    task: Task
    ended: Mapping[str, str]
    path: Path
    finished: bool = False

    @property
    def left(self) -> tuple[str, ...]:
        """The devices that have not succeeded, in order."""
        return tuple(device for device in self.task.devices if self.ended.get(device) != "")

    @property
    def canaries_left(self) -> int:
        """How many of these are canaries."""
        return sum(device in self.left for device in self.task.devices[: self.task.canary])

    @property
    def state(self) -> str:
        """``running``, ``complete``, ``failed``, or ``cut`` where it did not come to its end."""
        if is_running(self.path):
            return "running"
        if not self.left:
            return "complete"
        return "failed" if self.finished else "cut"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        told = {"run": self.id, "at": self.at, "state": self.state, **asdict(self.task)}
        return {**told, "ended": dict(self.ended), "left": list(self.left)}

    def options(self, kind: Callable[..., T], name: str | None = None) -> T:
        """Return the options of the task, or those of one name among them, as what they were when it was begun.

        Raises:
            UsageError: If this version does not know them.
        """
        try:
            return kind(**(self.task.options[name] if name else self.task.options))
        except (KeyError, TypeError) as error:
            reason = "has options that this version does not know"
            raise UsageError(f"run {self.id}", reason, f"begin anew with: ferry {self.task.command}") from error

    def bundles(self) -> list[Bundle]:
        """Open the bundles of the task.

        Raises:
            MissingFileError: If one is not there any more.
            BundleError: If one has become another.
        """
        return [self._bundle(planned) for planned in self.task.bundles]

    def _bundle(self, planned: Planned) -> Bundle:
        begin_anew = f"bring it back, or begin anew with: ferry {self.task.command}"
        if not Path(planned.path).is_dir():
            reason = f"its bundle {planned.name} is not at {planned.path} any more"
            raise MissingFileError(f"run {self.id}", reason, begin_anew)
        bundle = Bundle.open(planned.path)
        if bundle.id != planned.id:
            reason = f"the bundle at {planned.path} is another one now: {bundle.id[:12]}, and was {planned.id[:12]}"
            raise BundleError(f"run {self.id}", reason, begin_anew)
        bundle.check()
        return bundle


def runs(say: Say = silent) -> list[Run]:
    """Return the runs that are kept, the oldest first.

    Args:
        say: Takes a line for each journal that is damaged; it is left out.
    """
    found = []
    for path in paths():
        try:
            found.append(read(path))
        except UsageError as error:
            say(str(error))
    return found


def find(name: str | None = None) -> Run:
    """Return one run.

    Args:
        name: How its name begins; the last that is not complete where None.

    Raises:
        UnknownNameError: If there is no such run, or several.
        UsageError: If every run is complete.
    """
    if name is None:
        unfinished = [run for run in runs() if run.left]
        if not unfinished:
            raise UsageError("ferry fleet resume", "there is no run that is not complete", "see: ferry fleet runs")
        return unfinished[-1]
    named = [path for path in paths() if name and _run_of(path).startswith(name)]
    if len(named) != 1:
        raise UnknownNameError("run", name, [run.id for run in runs()], "see them with: ferry fleet runs")
    return read(named[0])


def runs_dir() -> Path:
    """Return where the journals are."""
    return state_dir() / "runs"


def paths() -> list[Path]:
    """Return the journals, the oldest first."""
    folder = runs_dir()
    return sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name)) if folder.is_dir() else []


def is_running(path: Path) -> bool:
    """Tell whether a process performs a run."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            return not take_lock(file)
    except OSError:
        return False


def read(path: Path) -> Run:
    """Read a journal; a line that was torn when the machine went down says nothing.

    Raises:
        UsageError: If it does not begin with a task.
    """
    head, *lines = [_parse(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()] or [{}]
    try:
        told = dict(head["task"])
        bundles = tuple(Planned(**bundle) for bundle in told.pop("bundles"))
        task = Task(bundles=bundles, devices=tuple(told.pop("devices")), **told)
        at = str(head["at"])
        COMMANDS.index(task.command)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(path, "is no journal of a run that this version reads", "remove it") from error
    ended = {str(line["device"]): str(line["error"]) for line in lines if {"device", "error"} <= set(line)}
    return Run(_run_of(path), at, task, ended, path, bool(lines and "finished" in lines[-1]))


def _run_of(path: Path) -> str:
    named = _FILE.fullmatch(path.name)
    return named["run"] if named else ""


def _parse(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
