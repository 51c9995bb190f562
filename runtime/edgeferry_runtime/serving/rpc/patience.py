"""How long a client may let a call wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from edgeferry_runtime.serving.refusals import Kind, RefusedError


@contextlib.contextmanager
def cancelled_after(seconds: float) -> Iterator[None]:
    """Cancel the task that this surrounds, if it is not through in time."""
    task = asyncio.current_task()
    assert task
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def within(seconds: float, subject: str, reason: str) -> Iterator[None]:
    """Give up on what takes longer.

    Raises:
        RefusedError: SLOW.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        with cancelled_after(seconds):
            yield
    except asyncio.CancelledError:
        if loop.time() >= end:
            raise RefusedError(Kind.SLOW, subject, reason, f"take at most {seconds:g} s") from None
        raise


class Streams:
    """The streams that rest between two requests. Whoever stops the server ends them, since nothing is in flight."""

    def __init__(self) -> None:
        self._resting: set[asyncio.Task[Any]] = set()
        self._ended = False

    @contextlib.contextmanager
    def resting(self, seconds: float) -> Iterator[None]:
        """Let the stream of this task rest.

        Raises:
            RefusedError: SLOW after so many seconds, NOT_READY once all streams are ended.
        """
        task = asyncio.current_task()
        assert task
        self._check()
        self._resting.add(task)
        try:
            with within(seconds, "the stream", "brought no request"):
                yield
        except asyncio.CancelledError:
            self._check()
            raise
        finally:
            self._resting.discard(task)

    def _check(self) -> None:
        if self._ended:
            reason = "is about to stop"
            raise RefusedError(Kind.NOT_READY, "the server", reason, "try again later", retry_after_s=1) from None

    def end(self) -> None:
        """End those that rest now, and others as soon as they would."""
        self._ended = True
        for task in self._resting:
            task.cancel()
