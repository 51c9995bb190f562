"""Threads that take work from an event loop, and hand results back to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Errand(Generic[Result]):
    """Something for a thread to do, and the future of what comes of it; made in the event loop that awaits that.

    Args:
        work: What to do.
        after: Called in the loop once it was done, whoever still waits for it.

    Attributes:
        future: What comes of it, or the error that it ended by.
    """

    __slots__ = ("_after", "_error", "_loop", "_result", "_work", "future")

    def __init__(self, work: Callable[[], Result], after: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self._loop.create_future()
        self._work, self._after = work, after
        self._result: Result | None = None
        self._error: BaseException | None = None

    def do(self) -> None:
        """Do it, in a thread."""
        with self:
            self._result = self._work()

    def tell(self) -> None:
        """Let the loop know that it is done."""
        self._loop.call_soon_threadsafe(self._deliver)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._error = error
        return isinstance(error, Exception)

    def _deliver(self) -> None:
        self._after()
        if self.future.done():
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)  # type: ignore[arg-type]


class Crew:
    """Threads that run errands, in the order in which they come.

    Where several rest, the one that worked last is woken, and no other: its caches are warm, and every thread that
    wakes competes for Python's lock.

    Args:
        size: How many threads.
        name: What they are called.
    """

    def __init__(self, size: int, name: str) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Errand[Any]] = deque()
        self._resting: list[_Hand] = []
        self._closed = False
        self._hands = [_Hand(self._next, f"{name}-{number}") for number in range(size)]

    def put(self, errand: Errand[Any]) -> None:
        """Let a thread run an errand.

        Raises:
            RuntimeError: If the crew was closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("no errand can be run after shutdown")
            if not self._resting:
                self._waiting.append(errand)
                return
            hand = self._resting.pop()
        hand.wake(errand)

    def withdraw(self, errand: Errand[Any]) -> bool:
        """Take back what no thread has begun yet, and tell whether that was so."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(errand)
            return True
        return False

    def close(self) -> None:
        """Wait until every errand is done, and end the threads."""
        with self._lock:
            self._closed, resting = True, self._resting
        for hand in resting:
            hand.wake(None)
        for hand in self._hands:
            hand.join()

    def _next(self, hand: _Hand) -> Errand[Any] | None:
        """Return what a thread does next; None where it is to rest, or to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if not self._closed:
                self._resting.append(hand)
            else:
                hand.wake(None)
            return None


class _Hand(threading.Thread):
    """One of them."""

    def __init__(self, following: Callable[[_Hand], Errand[Any] | None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._following = following
        self._given: Errand[Any] | None = None
        self._awake = threading.Lock()
        self._awake.acquire()
        self.start()

    def wake(self, errand: Errand[Any] | None) -> None:
        """End its rest with an errand; None ends the thread."""
        self._given = errand
        self._awake.release()

    def run(self) -> None:
        """Work until the end.

        It knows what comes next before it tells what it did: so it lets go of Python's lock at once where it rests
        then, and the loop, which wakes meanwhile, finds the lock free.
        """
        errand = self._following(self) or self._rest()
        while errand is not None:
            errand.do()
            following = self._following(self)
            errand.tell()
            errand = following or self._rest()

    def _rest(self) -> Errand[Any] | None:
        self._awake.acquire()
        return self._given
