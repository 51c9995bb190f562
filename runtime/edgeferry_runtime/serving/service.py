"""What every protocol calls: find the release, enter its lane, answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edgeferry_runtime.classification import Prediction
from edgeferry_runtime.serving.done import Done
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import tell_model, tell_times
from edgeferry_runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Call:
    """A request for inference, as every protocol understands it.

    Attributes:
        model: The model's name.
        feeds: An array for each input; one of a quantized input's stored dtype holds stored values.
        version: Its version; None or an empty text takes the default one.
        signature: Which of its signatures; None takes the primary one.
        outputs: The outputs to return, and whether as stored values rather than real ones; None returns all as real
            ones.
        timeout_s: How long the client waits; None takes the server's own limit.
    """

    model: str
    feeds: Mapping[str, Array]
    version: str | int | None = None
    signature: str | None = None
    outputs: Mapping[str, bool] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a `Call`.

    Attributes:
        release: Which release answered.
        lane: Which signature of it.
        outputs: The outputs by name, in the order that was asked for.
        queue_ms: How long it waited.
        compute_ms: How long it took from there.
    """

    release: Release
    lane: Lane
    outputs: Mapping[str, Array]
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True)
class Named:
    """What came of a picture.

    Attributes:
        release: Which release answered.
        predictions: The most likely classes, best first.
        queue_ms: How long it waited.
        compute_ms: How long it took from there.
    """

    release: Release
    predictions: list[Prediction]
    queue_ms: float
    compute_ms: float


class Service:
    """The heart of a server; it belongs to one event loop.

    Args:
        repository: The models.
        limits: What is let in.

    Attributes:
        stopping: Whether the server was told to stop: what is in flight is finished, readiness is denied.
        reading: Held while a large request is read, which can take many times its size in memory.
    """

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self.repository, self.limits = repository, limits
        self.stopping = False
        self.reading = asyncio.Lock()

    async def infer(self, call: Call, release: Release | None = None) -> Answer:
        """Run a model.

        Args:
            call: What to run.
            release: Which release, by whoever holds it; None finds the one that the call means.

        Raises:
            RefusedError: If there is no such model, its queue is full, or the deadline has passed.
            DataError: If a name, shape or dtype does not fit.
            EngineError: If the engine fails.
        """
        if release is None:
            with self.repository.find(call.model, call.version).held() as found:
                return await self.infer(call, found)
        tell_model(release.name, release.version)
        lane = signature(release, call.signature)
        wanted = call.outputs if call.outputs is not None else dict.fromkeys(names(lane.outputs), False)
        _check_outputs(lane, wanted)
        done = await lane.run(call.feeds, wanted, self._deadline(call.timeout_s))
        release.recent.add(done.queue_ms + done.compute_ms)
        tell_times(done.queue_ms, done.compute_ms)
        return Answer(release, lane, done.result, done.queue_ms, done.compute_ms)

    async def classify(self, model: str, picture: bytes, top: int = 5, version: str | int | None = None) -> Named:
        """Name what a picture shows; see `classify_all`."""
        (named,) = await self.classify_all(model, [picture], top, version)
        return named

    async def classify_all(
        self, model: str, pictures: Sequence[bytes], top: int, version: str | int | None
    ) -> list[Named]:
        """Name what pictures show, all by one release and deadline, and no more at a time than can run.

        Raises:
            RefusedError: As `infer`, and INVALID if the model cannot: what is known of it does not tell how.
            DataError: If one is no picture.
            EngineError: If the engine fails.
        """
        with self.repository.find(model, version).held() as release:
            tell_model(release.name, release.version)
            _check_names_pictures(release)
            deadline, found = self._deadline(None), []
            most = min(release.execution.workers, release.execution.queue)
            for at in range(0, len(pictures), most):
                some = (_name(release, picture, top, deadline) for picture in pictures[at : at + most])
                found += await asyncio.gather(*some)
            return found

    def ready(self) -> bool:
        """Tell whether every model that the user named can answer, and the server is not about to stop."""
        return not self.stopping and self.repository.ready()

    def check_tensor(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        """Refuse a tensor that is too large, before there is any memory for it. A size of 0 counts as 1.

        Raises:
            RefusedError: TOO_LARGE, or INVALID for a dimension below zero.
        """
        if any(dim < 0 for dim in shape) or len(shape) > 32:
            raise RefusedError(
                Kind.INVALID, f"tensor {name[:80]!r}", f"has the shape {list(shape)[:32]}", "send real sizes"
            )
        size, most = prod(max(dim, 1) for dim in shape) * dtype.itemsize, self.limits.tensor_bytes
        if size > most:
            reason = f"would have {size} bytes, and {most} are allowed"
            raise RefusedError(Kind.TOO_LARGE, f"tensor {name[:80]!r}", reason, "send less at a time")

    def _deadline(self, timeout_s: float | None) -> float:
        most = self.limits.timeout_s
        return asyncio.get_running_loop().time() + (most if timeout_s is None else min(timeout_s, most))


def default(repository: Repository, name: str) -> Release | None:
    """Return the release that is meant where a request names no version; None where none answers."""
    with contextlib.suppress(RefusedError):
        return repository.find(name)
    return None


def signature(release: Release, name: str | None) -> Lane:
    """Return the lane of a signature; None takes the primary one.

    Raises:
        RefusedError: NOT_FOUND if there is none of this name.
    """
    if name is None or name in release.lanes:
        return release.primary if name is None else release.lanes[name]
    known = ", ".join(release.lanes) if any(release.lanes) else "none with a name"
    raise RefusedError(Kind.NOT_FOUND, f"signature {name[:80]!r}", "is none of the model's", f"there are: {known}")


async def _name(release: Release, picture: bytes, top: int, deadline: float) -> Named:
    with release.held():
        done: Done[list[Prediction]] = await release.primary.classify(picture, top, deadline)
        release.recent.add(done.queue_ms + done.compute_ms)
        tell_times(done.queue_ms, done.compute_ms)
        return Named(release, done.result, done.queue_ms, done.compute_ms)


def names(specs: tuple[TensorSpec, ...]) -> list[str]:
    """Return the names of tensors."""
    return [spec.name for spec in specs]


def _check_names_pictures(release: Release) -> None:
    if release.primary.doubt:
        reason = f"cannot name what a picture shows: it {release.primary.doubt}"
        fix = "convert it with a recipe that has labels and [preprocess], or send it tensors"
        raise RefusedError(Kind.INVALID, f"model {release.name!r}", reason, fix)


def _check_outputs(lane: Lane, wanted: Mapping[str, bool]) -> None:
    known = names(lane.outputs)
    for name in wanted:
        if name not in known:
            fix = f"there are: {', '.join(known)}"
            raise RefusedError(Kind.INVALID, f"output {name[:80]!r}", "is none of the model's", fix)
