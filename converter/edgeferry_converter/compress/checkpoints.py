"""What outlives a killed compression: finished steps, and the last epoch of the step at work.

It lies beside the output, in ``.OUT.compress``: a journal in JSON, and arrays in ``.npz`` without pickles. Each file is
there whole or not at all. A file that is locked while a process works there keeps a second one out.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress import ranges_file
from edgeferry_converter.compress.grid import Ranges
from edgeferry_converter.compress.history import Entry, Epoch, Standing
from edgeferry_converter.compress.network import Arrays
from edgeferry_converter.compress.training import Lap
from edgeferry_converter.data import DAMAGED
from edgeferry_runtime.errors import CorruptFileError, OutputExistsError, UsageError
from edgeferry_runtime.whole import whole_file

JOURNAL, LOCK, LAP = "journal.json", "lock", "epoch.npz"
SUFFIX = ".compress"
ARRAY = "array/"
"""What stands before every name in an archive, so that none is one of `numpy.savez`'s own."""
SCHEMA = 2
PARTS = ("network", "trainer", "work")


@dataclass(frozen=True)
class Done:
    """A step that has been finished.

    Attributes:
        digest: Of what the recipe says of it, and of all before.
        entry: What the history tells.
    """

    digest: str
    entry: Entry


@dataclass(frozen=True)
class Journal:
    """How far a chain is.

    Attributes:
        origin: By what it is called, what must be the same to go on: the model, the data and so on, as hashes.
        artifacts: Hash of how models become artifacts, which `start` is measured of.
        start: The source's standing; None before it was measured.
        steps: Those that are finished.
    """

    origin: Mapping[str, str]
    artifacts: str = ""
    start: Standing | None = None
    steps: tuple[Done, ...] = ()


@dataclass
class Store:
    """The folder of a chain at work.

    Attributes:
        folder: Where it is.
        journal: What is written there.
    """

    folder: Path
    journal: Journal = field(default_factory=lambda: Journal({}))

    @property
    def holds_work(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self.journal.steps) or (self.folder / LAP).is_file()

    def keep(self, journal: Journal) -> None:
        """Write the journal anew."""
        self.journal = journal
        with whole_file(self.folder / JOURNAL) as stream:
            stream.write(json.dumps({"schema": SCHEMA, **asdict(journal)}, indent=1).encode())

    def keep_lap(self, digest: str, lap: Lap) -> None:
        """Keep the state after an epoch, in place of the one before."""
        arrays = {f"{part}/{key}": value for part in PARTS for key, value in getattr(lap, part).items()}
        told = json.dumps({"digest": digest, "epochs": [asdict(epoch) for epoch in lap.epochs]})
        _write(self.folder / LAP, {**arrays, "told": np.frombuffer(told.encode(), np.uint8)})

    def lap(self, digest: str) -> Lap | None:
        """Return the last epoch of a step; None where there is none of this very step."""
        if not (self.folder / LAP).is_file():
            return None
        arrays = _read(self.folder / LAP)
        with _undamaged(self.folder / LAP):
            told = json.loads(arrays.pop("told").tobytes())
            if told["digest"] != digest:
                return None
            parts: dict[str, Arrays] = {part: {} for part in PARTS}
            for key, value in arrays.items():
                part, _, name = key.partition("/")
                parts[part][name] = value
            return Lap(tuple(Epoch(**one) for one in told["epochs"]), **parts)

    def finish(self, done: Done, state: Arrays, ranges: Ranges | None = None) -> None:
        """Keep the network of a step that has ended, and the ranges that it settled."""
        number = len(self.journal.steps) + 1
        _write(self._state(number), state)
        self._ranges(number).unlink(missing_ok=True)
        if ranges is not None:
            ranges_file.save(ranges, self._ranges(number))
        self.keep(replace(self.journal, steps=(*self.journal.steps, done)))

    def state(self, number: int) -> Arrays:
        """Return the network's state after a finished step, counted from 1."""
        return _read(self._state(number))

    def ranges(self, number: int) -> Ranges | None:
        """Return the ranges that a finished step settled; None where it trained no integers."""
        return ranges_file.load(self._ranges(number)) if self._ranges(number).is_file() else None

    def place(self, number: int) -> Path:
        """Return an empty folder for what is made of the model after a step; 0 is the source."""
        folder = self.folder / f"standing-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def bundle(self, number: int) -> Path | None:
        """Return the bundle that was made after a step; None where there is none."""
        found = sorted((self.folder / f"standing-{number}").glob("*/manifest.json"))
        return found[0].parent if found else None

    def begin(self, origin: Mapping[str, str], artifacts: str) -> None:
        """Begin a chain from the start.

        Args:
            origin: As in `Journal`.
            artifacts: Likewise.
        """
        self.keep(Journal(origin, artifacts))
        (self.folder / LAP).unlink(missing_ok=True)

    def go_on(self, origin: Mapping[str, str], artifacts: str, digests: list[str]) -> None:
        """Keep of the journal what is still true: finished steps that the recipe still begins with.

        Args:
            origin: As in `Journal`.
            artifacts: Likewise; where it is another, the source is measured again.
            digests: Of the steps of the recipe.

        Raises:
            UsageError: If the model, the data or anything else that all steps depend on is another; says what.
        """
        for key, value in origin.items():
            if self.journal.origin.get(key) != value:
                reason = f"cannot go on from {self.folder}: {key} is not what it was begun with"
                raise UsageError("--resume", reason, f"begin anew: rm -r {self.folder}")
        pairs = zip(self.journal.steps, digests, strict=False)
        same = tuple(done for done, _ in itertools.takewhile(lambda pair: pair[0].digest == pair[1], pairs))
        start = self.journal.start if self.journal.artifacts == artifacts else None
        self.keep(Journal(origin, artifacts, start, same))

    def forget(self) -> None:
        """Take the last finished step back: its network cannot be built again, and it is done anew."""
        self.keep(replace(self.journal, steps=self.journal.steps[:-1]))

    def _state(self, number: int) -> Path:
        return self.folder / f"step-{number}.npz"

    def _ranges(self, number: int) -> Path:
        return self.folder / f"ranges-{number}.npz"


def folder_of(output: Path) -> Path:
    """Return where the checkpoints of an output lie."""
    output = output.absolute()
    return output.with_name(f".{output.name}{SUFFIX}")


def check_outside(output: Path) -> None:
    """Refuse an output in a folder of checkpoints, which goes when the chain that they are of has ended.

    Raises:
        OutputExistsError: Naming the folder.
    """
    for folder in output.absolute().parents:
        if folder.name.startswith(".") and folder.name.endswith(SUFFIX) and (folder / JOURNAL).is_file():
            raise OutputExistsError(folder, "holds checkpoints, and goes when their chain has ended", "give another -o")


@contextlib.contextmanager
def opened(output: Path, *, resume: bool) -> Iterator[Store]:
    """Take the folder of checkpoints of an output; it stays when the body fails.

    Raises:
        OutputExistsError: If another process works there, an earlier run left something and `resume` is not set, or
            the folder is not ours.
        CorruptFileError: If the journal is damaged.
    """
    folder = folder_of(output)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputExistsError(folder, "exists and is no folder of checkpoints", "remove it, or give another -o")
    folder.mkdir(exist_ok=True)
    _check_ours(folder)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait for it to end, or give another -o"
            raise OutputExistsError(folder, "is in use by another ferry compress", fix) from None
        store = Store(folder, _journal(folder) or Journal({}))
        if store.holds_work and not resume:
            reason = "holds what an earlier run has done"
            raise OutputExistsError(folder, reason, f"go on with --resume, or begin anew: rm -r {folder}")
        try:
            yield store
        finally:
            if not store.holds_work:
                remove(store)


def remove(store: Store) -> None:
    """Remove a folder of checkpoints: nothing more is to be done with it."""
    shutil.rmtree(store.folder, ignore_errors=True)


def _check_ours(folder: Path) -> None:
    strange = [file for file in folder.iterdir() if file.name != LOCK and not file.name.startswith(".")]
    if strange and not (folder / JOURNAL).is_file():
        raise OutputExistsError(folder, "exists and holds no checkpoints of ours", "give another -o, or remove it")


def _journal(folder: Path) -> Journal | None:
    path = folder / JOURNAL
    if not path.is_file():
        return None
    with _undamaged(path):
        told = json.loads(path.read_bytes())
        if told["schema"] != SCHEMA:
            raise ValueError(f"schema {told['schema']}")
        steps = tuple(Done(one["digest"], _entry(one["entry"])) for one in told["steps"])
        start = Standing(**told["start"]) if told["start"] else None
        return Journal(told["origin"], told["artifacts"], start, steps)


def _entry(told: Mapping[str, Any]) -> Entry:
    epochs = tuple(Epoch(**one) for one in told["epochs"])
    return Entry(**{**told, "standing": Standing(**told["standing"]), "epochs": epochs})


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with whole_file(path) as stream:
        np.savez(stream, **{f"{ARRAY}{key}": value for key, value in arrays.items()})


def _read(path: Path) -> Arrays:
    with _undamaged(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {key.removeprefix(ARRAY): stored[key] for key in stored.files}


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (*DAMAGED, KeyError, TypeError, AttributeError) as error:
        reason = f"is damaged ({type(error).__name__}: {error})"
        raise CorruptFileError(path, reason, f"begin anew: rm -r {path.parent}") from error
