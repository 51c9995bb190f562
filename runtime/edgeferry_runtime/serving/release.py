"""One release of a model, loaded: proven before anybody is served, and let go of after the last request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial

from edgeferry_runtime.attended import Attended
from edgeferry_runtime.bundle import Bundle, Manifest
from edgeferry_runtime.errors import EngineError, VerificationError
from edgeferry_runtime.labels import artifact_labels
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.latency import Recent
from edgeferry_runtime.serving.settings import Execution
from edgeferry_runtime.undo import undo_on_error

PROBE_S = 300.0
"""How long a probe may take; a model that hangs would keep others from being loaded."""


class State(str, Enum):
    """What a release is doing; the values are those of the Open Inference Protocol's repository index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Listing:
    """A line of the repository's index.

    Attributes:
        name: The model.
        version: The version, a positive number.
        state: What it is doing.
        reason: Why it is not ready; empty where it is. A client may read it.
        release: The bundle's id; empty where that is not known.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    release: str = ""


class Release:
    """A release that answers requests; make one with `open_release`.

    Args:
        name: What clients call the model.
        version: Its version.
        bundle: The bundle.
        lanes: A lane for each signature by name, the primary one first.
        execution: How it runs.

    Attributes:
        labels: One name per class, of the bundle or of its artifact; empty where neither has any.
        users: Requests that hold it.
        recent: How long its latest requests took.
    """

    def __init__(
        self, name: str, version: int, bundle: Bundle, lanes: Mapping[str, Lane], execution: Execution
    ) -> None:
        self.name, self.version, self.bundle, self.lanes, self.execution = name, version, bundle, lanes, execution
        self.labels = bundle.labels or artifact_labels(bundle.artifact, bundle.manifest.format)
        self.users, self.recent = 0, Recent()
        self._retired = False
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def primary(self) -> Lane:
        """The lane of the signature that is meant where a request names none."""
        return next(iter(self.lanes.values()))

    @contextlib.contextmanager
    def held(self) -> Iterator[Release]:
        """Keep it open during a request."""
        self.users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self.users -= 1
            if not self.users:
                self._unused.set()

    async def retire(self) -> None:
        """Wait for the requests that hold it, then close it. Nobody may be given it any more."""
        await self._unused.wait()
        if not self._retired:
            self._retired = True
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Let go of its models."""
        _close(self.lanes)


def open_release(name: str, version: int, bundle: Bundle, execution: Execution) -> Release:
    """Load a bundle that is whole and proven; blocks, so call it in a thread.

    Args:
        name: What clients call the model.
        version: Its version.
        bundle: The bundle, in a folder where nobody changes it.
        execution: How it runs.

    Raises:
        EngineError: If the engine refuses it.
    """
    lanes: dict[str, Lane] = {}
    with undo_on_error(partial(_close, lanes)):
        for signature in bundle.manifest.signatures or ("",):
            lanes[signature] = Lane(bundle.path, signature or None, execution)
        return Release(name, version, bundle, lanes, execution)


def _close(lanes: Mapping[str, Lane]) -> None:
    for lane in lanes.values():
        lane.close()


def prove(bundle: Bundle, execution: Execution, child: Attended, limit_s: float = PROBE_S) -> None:
    """Run a bundle's probe in a child process, which may die of it; blocks.

    Args:
        bundle: The bundle.
        execution: How it is going to run.
        child: What runs it; another thread may have it leave.
        limit_s: How long it may take.

    Raises:
        EngineError: If the engine refuses it, dies of it, or is not done in time.
        VerificationError: If its outputs are not those that it was made with.
    """
    request = {"op": "probe", "bundle": str(bundle.path), "delegate": execution.delegate, "full": False}
    subject = f"bundle {bundle.manifest.name}"
    with _left_after(limit_s, child, subject):
        found = child.do(request, subject)
    if found["violations"]:
        reason = f"computes something else than its source: {'; '.join(found['violations'])}"
        raise VerificationError(subject, reason, "convert the source again")


@contextlib.contextmanager
def _left_after(limit_s: float, child: Attended, subject: str) -> Iterator[None]:
    """Have a child leave that takes longer, and say so."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.leave()

    timer = threading.Timer(limit_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except EngineError as error:
        if not late.is_set():
            raise
        reason = f"did not finish its probe in {limit_s:g} s"
        raise EngineError(subject, reason, "use a smaller model, or a faster device") from error
    finally:
        timer.cancel()
