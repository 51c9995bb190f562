"""The way of requests through one signature of one release: a bounded queue, threads, and models."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.classification import Classifier, Prediction
from edgeferry_runtime.errors import EdgeferryError, UsageError
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.pool import ModelPool
from edgeferry_runtime.serving.batcher import Batcher, why_alone, why_mixed
from edgeferry_runtime.serving.coding import Coding
from edgeferry_runtime.serving.crew import Crew, Errand
from edgeferry_runtime.serving.done import Done
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.settings import Execution
from edgeferry_runtime.tensors import Array

Result = TypeVar("Result")

BRIEF_MS = 1.0
"""What took less the last time, on the same shapes, may hold up the event loop where nobody else wants the model."""


class Lane:
    """One signature of one release, ready for requests.

    Args:
        path: A bundle's folder.
        signature: Which of its signatures; None takes the primary one.
        execution: How it runs.

    Attributes:
        inputs: Name, shape, stored dtype and quantization of each input.
        outputs: The same of each output.
        doubt: Why it cannot name what a picture shows; empty where it can.
        alone: Why requests are not put together, where that was asked for; else empty.
        waiting: Requests that wait or run.
        finished: Requests that did, and did not only give up waiting.

    Raises:
        EdgeferryError: What `load` raises.
    """

    def __init__(self, path: Path, signature: str | None, execution: Execution) -> None:
        self._runner = _runner(path, signature, execution)
        self.inputs, self.outputs = self._runner.inputs, self._runner.outputs
        self.doubt = _doubt(self._runner)
        self.waiting = self.finished = self._asking = 0
        self._brief: list[tuple[int, ...]] | None = None
        self._queue, self._counting = execution.queue, threading.Lock()
        self._coding = Coding(self.inputs, self.outputs, self._runner.run)
        self.alone = self._why_alone(path, signature) if execution.max_batch > 1 else ""
        batched = execution.max_batch > 1 and not self.alone
        self._batcher = self._make_batcher(execution) if batched else None
        self._crew = Crew(execution.workers, f"lane-{path.name}")

    def _why_alone(self, path: Path, signature: str | None) -> str:
        if isinstance(self._runner, Forgetful):
            return "it keeps state"
        samples = list(Bundle.open(path).probe(signature).feeds())
        return why_alone(self.inputs, self.outputs) or why_mixed(self._coding, samples)

    def _make_batcher(self, execution: Execution) -> Batcher:
        fixed = self.inputs[0].shape[0]
        most = min(fixed, execution.max_batch) if fixed > 0 else execution.max_batch
        return Batcher(self._coding, most, execution.max_delay_ms / 1000)

    async def run(
        self, feeds: Mapping[str, Array], outputs: Mapping[str, bool], deadline: float
    ) -> Done[dict[str, Array]]:
        """Run a request.

        Args:
            feeds: An array for each input. One of a quantized input's stored dtype holds stored values, any other
                real ones. More or fewer rows than a fixed batch has are run one batch after the other.
            outputs: The outputs to return, and whether as stored values rather than real ones.
            deadline: When nobody waits any more, by the event loop's clock.

        Raises:
            DataError: If a name, shape or dtype does not fit.
            EngineError: If the engine fails.
            RefusedError: If the queue is full, or the deadline has passed.
        """
        if self._batcher is None:
            return await self._run_alone(feeds, outputs, deadline)
        return await self._run_batched(self._batcher, feeds, outputs, deadline)

    async def _run_batched(
        self, batcher: Batcher, feeds: Mapping[str, Array], outputs: Mapping[str, bool], deadline: float
    ) -> Done[dict[str, Array]]:
        """Run with others; nothing is left of a request that nobody waits for.

        Errands begin in the order of their requests, and each takes the earliest of these. So one that has not begun
        is not needed once its own request waits no more: what waits before it has errands that have begun.
        """
        self._enter(deadline)
        answer = batcher.add(feeds, outputs, deadline - asyncio.get_running_loop().time())
        answer.add_done_callback(self._left)
        errand = Errand(batcher.serve, bool)
        try:
            self._crew.put(errand)
            return await _by(deadline, asyncio.wrap_future(answer))
        finally:
            if answer.cancel():
                batcher.withdraw(answer)
                self._leave(finished=False)
            self._crew.withdraw(errand)

    def _left(self, answer: Future[Done[dict[str, Array]]]) -> None:
        if not answer.cancelled():
            self._leave()

    async def classify(self, picture: bytes, top: int, deadline: float) -> Done[list[Prediction]]:
        """Name what a picture shows; see `Model.classify`, whose errors it raises, and those of `run`."""
        return await self._submit(_timed(lambda: self._runner.classify(picture, top)), deadline)

    async def _run_alone(
        self, feeds: Mapping[str, Array], outputs: Mapping[str, bool], deadline: float
    ) -> Done[dict[str, Array]]:
        """Run in a thread; or right here, where that is done before a thread would have woken."""
        job, shapes = _timed(lambda: self._coding.run(feeds, outputs)), [value.shape for value in feeds.values()]
        if shapes == self._brief and not self.waiting and await self._is_free():
            done = self._do_here(job, deadline)
        else:
            done = await self._submit(job, deadline)
        self._brief = shapes if done.compute_ms < BRIEF_MS else None
        return done

    async def _is_free(self) -> bool:
        """Tell whether nobody wants the model, after those had their turn who came at the same time."""
        self._asking += 1
        try:
            if self._asking == 1:
                await asyncio.sleep(0)
            return self._asking == 1 and not self.waiting
        finally:
            self._asking -= 1

    def _do_here(self, job: Callable[[], Done[Result]], deadline: float) -> Done[Result]:
        self._enter(deadline)
        try:
            return job()
        finally:
            self._leave()

    async def _submit(self, job: Callable[[], Done[Result]], deadline: float) -> Done[Result]:
        self._enter(deadline)
        errand = Errand(job, self._leave)
        self._crew.put(errand)
        try:
            return await _by(deadline, errand.future)
        except (RefusedError, asyncio.CancelledError):
            if self._crew.withdraw(errand):
                self._leave(finished=False)
            raise

    def _enter(self, deadline: float) -> None:
        if asyncio.get_running_loop().time() >= deadline:
            raise _late()
        with self._counting:
            if self.waiting >= self._queue:
                reason = f"has {self.waiting} requests waiting, as many as it takes"
                raise RefusedError(Kind.BUSY, "the model", reason, "try again later", retry_after_s=1)
            self.waiting += 1

    def _leave(self, finished: bool = True) -> None:
        with self._counting:
            self.waiting -= 1
            self.finished += finished

    def close(self) -> None:
        """Let go of threads and models; nothing may wait or run any more."""
        self._brief = None
        self._crew.close()
        self._runner.close()


def _timed(work: Callable[[], Result]) -> Callable[[], Done[Result]]:
    """Return what does it and tells how long it waited from now on, and how long it took."""
    queued = time.monotonic()

    def job() -> Done[Result]:
        started = time.monotonic()
        result = work()
        return Done(result, (started - queued) * 1000, (time.monotonic() - started) * 1000)

    return job


async def _by(deadline: float, awaited: asyncio.Future[Result]) -> Result:
    """Wait until the deadline."""
    loop = asyncio.get_running_loop()
    timer = loop.call_at(deadline, awaited.cancel)
    try:
        return await awaited
    except asyncio.CancelledError:
        if loop.time() >= deadline:
            raise _late() from None
        raise
    finally:
        timer.cancel()


def _late() -> RefusedError:
    return RefusedError(Kind.LATE, "the request", "was not done by its deadline", "allow it more time")


class Forgetful:
    """A model that keeps state, for requests that are strangers to each other: each begins anew.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._lock = model, threading.Lock()
        self.inputs, self.outputs = model.inputs, model.outputs

    def run(self, feeds: Mapping[str, Array], *, raw: bool = False) -> dict[str, Array]:
        """Run once, from the state that it begins with."""
        with self._lock:
            self._model.reset()
            return self._model.run(feeds, raw=raw)

    def classifier(self) -> Classifier:
        """Tell how it goes from a picture to classes."""
        return self._model.classifier()

    def classify(self, image: bytes, top: int) -> list[Prediction]:
        """Name what a picture shows, from the state that it begins with."""
        with self._lock:
            self._model.reset()
            return self._model.classify(image, top)

    def close(self) -> None:
        """Close the model."""
        self._model.close()


def _runner(path: Path, signature: str | None, execution: Execution) -> ModelPool | Forgetful:
    try:
        return ModelPool(path, execution.workers, delegate=execution.delegate, signature=signature)
    except UsageError as error:
        if "keeps state" not in error.reason:
            raise
        return Forgetful(load(path, delegate=execution.delegate, signature=signature))


def _doubt(runner: ModelPool | Forgetful) -> str:
    try:
        runner.classifier()
    except EdgeferryError as error:
        return error.reason
    return ""
