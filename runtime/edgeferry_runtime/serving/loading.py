"""What brings releases into memory and lets go of them: few at a time, in threads and children, never in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from edgeferry_runtime.attended import Attended
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.serving.folders import Found, discard, look, stage
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import PROBE_S, Release, open_release, prove
from edgeferry_runtime.serving.settings import Execution
from edgeferry_runtime.undo import undo_on_error

AT_A_TIME = 2


def trim() -> None:
    """Give free memory back to the system, where it is glibc's: that keeps it for each thread that had some."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Loading:
    """Loads releases from a folder of its own, where nobody changes them.

    Args:
        probe_s: How long a probe may take.

    Attributes:
        slots: Taken by whoever loads.
        place: The folder, once it has started; a server that is killed leaves it to the next one to remove.
        stopped: Whether nothing is loaded any more.
    """

    def __init__(self, probe_s: float = PROBE_S) -> None:
        self._probe_s = probe_s
        self.slots = asyncio.Semaphore(AT_A_TIME)
        self.place = Path()
        self.stopped = False
        self._children: set[Attended] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._undo = contextlib.ExitStack()

    async def start(self) -> None:
        """Make the folder."""
        self.place = await asyncio.to_thread(self._undo.enter_context, scratch("edgeferry-serve-"))

    def stop(self) -> None:
        """Load nothing any more, and break off what is being loaded."""
        self.stopped = True
        for child in self._children:
            child.leave()

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start what goes on even if its caller goes away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self) -> None:
        """Wait for the end of what was begun, and of what that began."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Remove the folder."""
        await asyncio.to_thread(self._undo.close)

    async def stage(self, found: Found) -> Bundle:
        """Bring a release to a place of our own; see `folders.stage`, whose errors it raises.

        Raises:
            RefusedError: If the server is about to stop.
        """
        self._check()
        return await asyncio.to_thread(stage, found, self.place)

    async def open(self, name: str, version: int, bundle: Bundle, execution: Execution) -> Release:
        """Prove and load a staged bundle, which is removed where that fails.

        Raises:
            RefusedError: If the server is about to stop.
            EngineError: If the engine refuses it, dies of it, or is not done in time.
            VerificationError: If its outputs are not those that it was made with.
        """
        child = Attended()
        self._children.add(child)
        try:
            return await asyncio.to_thread(self._open, (name, version, bundle, execution), child)
        finally:
            self._children.discard(child)

    def _open(self, asked: tuple[str, int, Bundle, Execution], child: Attended) -> Release:
        _, _, bundle, execution = asked
        with undo_on_error(partial(discard, bundle.path)):
            self._check()
            prove(bundle, execution, child, self._probe_s)
            return open_release(*asked)

    async def again(self, release: Release, execution: Execution) -> Release:
        """Load a release that is proven once more, to run in another way.

        Raises:
            RefusedError: If the server is about to stop.
            EngineError: If the engine refuses it.
        """
        self._check()
        return await asyncio.to_thread(self._again, release, execution)

    def _again(self, release: Release, execution: Execution) -> Release:
        found = look(release.bundle.path)
        assert found is not None
        bundle = stage(Found(found.folder, True, found.stamp), self.place)
        with undo_on_error(partial(discard, bundle.path)):
            return open_release(release.name, release.version, bundle, execution)

    async def let_go(self, release: Release) -> None:
        """Close a release after its last request, remove its files, and give its memory back."""
        await release.retire()
        await asyncio.to_thread(self._forget, release.bundle)

    def _forget(self, bundle: Bundle) -> None:
        discard(bundle.path)
        trim()

    def _check(self) -> None:
        if self.stopped:
            raise RefusedError(Kind.NOT_READY, "the server", "is about to stop", "try again later", retry_after_s=1)
