"""Dynamic batching: rows of several requests run together, and come back to whom they belong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from edgeferry_runtime.errors import DataError, EdgeferryError
from edgeferry_runtime.serving.coding import Coding
from edgeferry_runtime.serving.done import Done
from edgeferry_runtime.tensors import Array, TensorSpec

Answer = Done[dict[str, Array]]
Stored = Mapping[str, Array]


@dataclass(eq=False)
class Waiting:
    """A request that waits for others.

    Attributes:
        feeds: An array for each input.
        outputs: The outputs to return, and whether as stored values.
        until: How long, by the monotonic clock.
        answer: What comes of it.
        since: When it came.
    """

    feeds: Mapping[str, Array]
    outputs: Mapping[str, bool]
    until: float
    answer: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        """How many rows it says that it has; what is wrong with it shows when it is encoded."""
        return max((value.shape[0] for value in self.feeds.values() if value.ndim), default=1)


class Batcher:
    """Puts requests together along their first axis.

    Args:
        coding: Encodes, runs and decodes.
        most: Rows to put together.
        delay_s: How long the first of them waits for others.
    """

    def __init__(self, coding: Coding, most: int, delay_s: float) -> None:
        self._coding, self._most, self._delay_s = coding, most, delay_s
        self._waiting: deque[Waiting] = deque()
        self._arrival = threading.Condition()
        self._gathering = threading.Lock()

    def add(self, feeds: Mapping[str, Array], outputs: Mapping[str, bool], patience_s: float) -> Future[Answer]:
        """Let a request wait; `serve` has to be called once for each, by any thread.

        Args:
            feeds: An array for each input.
            outputs: The outputs to return, and whether as stored values.
            patience_s: How long until nobody waits for it any more.

        Returns:
            Its answer, or the DataError or EngineError that comes of it alone.
        """
        until = time.monotonic() + min(self._delay_s, patience_s / 2)
        request = Waiting(feeds, outputs, until)
        with self._arrival:
            self._waiting.append(request)
            self._arrival.notify()
        return request.answer

    def withdraw(self, answer: Future[Answer]) -> bool:
        """Take back a request that still waits for others, by its answer, and tell whether that was so."""
        with self._arrival:
            request = next((request for request in self._waiting if request.answer is answer), None)
            if request is not None:
                self._waiting.remove(request)
                self._arrival.notify()
            return request is not None

    def serve(self) -> None:
        """Gather requests, the first of which waits no longer than it may, and run them; none are left for some."""
        with self._gathering:
            requests = self._gather()
        with _Answering(request.answer for request in requests):
            self._run(requests)

    def _gather(self) -> list[Waiting]:
        with self._arrival:
            while self._waiting and sum(request.rows for request in self._waiting) < self._most:
                left = min(request.until for request in self._waiting) - time.monotonic()
                if left <= 0:
                    break
                self._arrival.wait(left)
            return self._cut()

    def _cut(self) -> list[Waiting]:
        """Take as many requests as fit, at least one; those that nobody waits for any more are dropped."""
        found: list[Waiting] = []
        rows = 0
        while self._waiting and (not found or rows + self._waiting[0].rows <= self._most):
            request = self._waiting.popleft()
            if request.answer.set_running_or_notify_cancel():
                found.append(request)
                rows += request.rows
        return found

    def _run(self, requests: Iterable[Waiting]) -> None:
        started = time.monotonic()
        groups: dict[object, list[tuple[Waiting, Stored]]] = {}
        for request in requests:
            with _Answering([request.answer]):
                stored = self._coding.encode(request.feeds)
                groups.setdefault(_fit(stored) or request, []).append((request, stored))
        for group in groups.values():
            self._run_together(group, started)

    def _run_together(self, group: Sequence[tuple[Waiting, Stored]], started: float) -> None:
        if len(group) > 1:
            with contextlib.suppress(EdgeferryError):  # of one of them: each hears what comes of it alone
                found = self._coding.execute(_join([stored for _, stored in group]))
                parts = _split(found, [_rows(stored) for _, stored in group])
                for (request, _), part in zip(group, parts, strict=True):
                    self._answer(request, part, started)
                return
        for request, stored in group:
            with _Answering([request.answer]):
                self._answer(request, self._coding.execute(stored), started)

    def _answer(self, request: Waiting, found: Stored, started: float) -> None:
        with _Answering([request.answer]):
            result = self._coding.decode(found, request.outputs)
            queue_ms, compute_ms = (started - request.since) * 1000, (time.monotonic() - started) * 1000
            request.answer.set_result(Done(result, queue_ms, compute_ms))


class _Answering:
    """Makes an error that its body ends by the answer of those that have none."""

    def __init__(self, answers: Iterable[Future[Answer]]) -> None:
        self._answers = list(answers)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for answer in self._answers:
            if error is not None and not answer.done():
                answer.set_exception(error)
        return isinstance(error, Exception)


def _fit(stored: Stored) -> tuple[object, ...] | None:
    """Return what requests must have in common to go together; None for one that goes with no other."""
    if len({value.shape[0] for value in stored.values()}) != 1 or not _rows(stored):
        return None
    return tuple(sorted((name, value.dtype.str, value.shape[1:]) for name, value in stored.items()))


def _rows(stored: Stored) -> int:
    return len(next(iter(stored.values())))


def _join(parts: Sequence[Stored]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split(found: Stored, rows: Sequence[int]) -> list[dict[str, Array]]:
    for name, value in found.items():
        if value.shape[:1] != (sum(rows),):
            raise DataError(f"output {name}", "does not have the rows of the inputs", "run each request alone")
    ends = np.cumsum(rows)[:-1]
    cut = {name: np.split(value, ends) for name, value in found.items()}
    return [{name: parts[i] for name, parts in cut.items()} for i in range(len(rows))]


def why_alone(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Say why requests to a model cannot be put together; empty where they can, as far as its shapes tell."""
    for spec in (*inputs, *outputs):
        if not spec.shape:
            return f"{spec.name} has no batch axis"
    batches = {spec.shape[0] for spec in inputs}
    if len(batches) != 1:
        return "its inputs differ in their batch"
    (batch,) = batches
    if batch == 1:
        return "its batch is fixed at one"
    other = next((spec.name for spec in outputs if spec.shape[0] != batch), None)
    return f"{other} does not have the batch of the inputs" if other else ""


def why_mixed(coding: Coding, samples: Sequence[Stored]) -> str:
    """Say why rows cannot run together, tried on two of them; empty where each is what it is alone.

    Args:
        coding: Encodes and runs.
        samples: Feeds, at least one, whose first rows are tried; beside a single one, zeros.
    """
    first, second = (*samples, *({name: np.zeros_like(v) for name, v in s.items()} for s in samples))[:2]
    try:
        rows = [coding.encode({name: value[:1] for name, value in sample.items()}) for sample in (first, second)]
        together = _split(coding.execute(_join(rows)), [1, 1])
        same = all(_same(coding.execute(row), part) for row, part in zip(rows, together, strict=True))
    except EdgeferryError as error:
        return f"two rows do not run together: {error.reason}"
    return "" if same else "its rows change each other's outputs"


def _same(alone: Stored, part: Stored) -> bool:
    return all(value.shape == part[name].shape and _close(value, part[name]) for name, value in alone.items())


def _close(a: Array, b: Array) -> bool:
    """Tell whether arrays are the same but for the order of a sum."""
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a), initial=0, where=np.isfinite(a)))
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True))
