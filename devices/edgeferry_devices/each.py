"""Works on several devices at once, each in a thread of its own; one that fails does not stop the others.

Threads neither speak nor ask nor take note. They leave that as errands to the one thread that waits for them, the
caller's, so that lines come whole, a question stands alone on the terminal, and Ctrl-C arrives where all can be ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from edgeferry_devices.asking import Secrets
from edgeferry_devices.device import Device, Say, open_device, silent
from edgeferry_devices.outcome import Outcome
from edgeferry_runtime.errors import EdgeferryError, NotTriedError
from edgeferry_runtime.undo import undo_on_error

T = TypeVar("T")
Work = Callable[[Device, Say], T]
"""Does on one open device what is to be done, and says how it goes."""

JOBS = 64
"""Devices at once: more than the 50 that were tried, each of which takes 0.3 MB and 70 ms of a core here."""
GRACE_S = 5.0
"""How long those that are ended by Ctrl-C may take to clean up."""


def ignore(outcome: Outcome[Any]) -> None:
    """Take no note."""


@dataclass(frozen=True)
class Pace:
    """How to go about several devices.

    Attributes:
        jobs: How many at once.
        canary: How many are tried before all others, which are not touched where one of these fails.
        ended: Takes note of each device, in the caller's thread, as soon as its work has ended.
    """

    jobs: int = JOBS
    canary: int = 0
    ended: Callable[[Outcome[Any]], None] = ignore


def each(
    names: Sequence[str],
    work: Work[T],
    pace: Pace | None = None,
    say: Say = silent,
    secrets: Secrets | None = None,
) -> list[Outcome[T]]:
    """Do the same on several devices, canaries first.

    Args:
        names: Names of devices; of one that comes twice the first counts.
        work: What to do on each; it runs in a thread of its own.
        pace: How many at once, and how many first.
        say: Takes the progress, each line beginning with the device's name.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Returns:
        One for each device, in order. What is none of our errors is raised, once the other devices are ended.
    """
    pace, secrets = pace or Pace(), secrets or Secrets()
    wanted = list(dict.fromkeys(names))
    first, rest = wanted[: pace.canary], wanted[pace.canary :]
    crew = _Crew(work, pace, say, secrets, len(wanted))
    outcomes = crew.perform(first, rest)
    if bad := next((outcome for outcome in outcomes if outcome.error), None):
        reason = f"was not tried, since {bad.device}, which came first, failed"
        return [*outcomes, *(Outcome(n, error=NotTriedError(n, reason, f"mend {bad.device} first")) for n in rest)]
    if first and rest:
        say(f"{', '.join(first)}: proven; now the other {len(rest)}")
    return [*outcomes, *crew.perform(rest)]


class _Crew(Generic[T]):
    """The threads, and what they leave to the thread that waits for them."""

    def __init__(self, work: Work[T], pace: Pace, say: Say, secrets: Secrets, total: int) -> None:
        self.work, self.pace, self.say, self.secrets, self.total = work, pace, say, secrets, total
        self.errands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.threads: dict[str, threading.Thread] = {}
        self.open: dict[str, Device] = {}
        self.asked: set[Future[str | None]] = set()
        self.stopping = False
        self.outcomes: dict[str, Outcome[T]] = {}

    def perform(self, names: Sequence[str], later: Sequence[str] = ()) -> list[Outcome[T]]:
        """Work on some devices, and return when all of them have ended; the later ones are named where that is cut."""
        waiting = list(names)
        with undo_on_error(lambda: self._end([*waiting, *later])):
            while waiting or self.threads:
                while waiting and len(self.threads) < self.pace.jobs:
                    self._start(waiting.pop(0))
                self.errands.get()()
        return [self.outcomes[name] for name in names]

    def _start(self, name: str) -> None:
        self.threads[name] = threading.Thread(target=self._run, args=(name,), daemon=True, name=f"ferry {name}")
        self.threads[name].start()

    def _run(self, name: str) -> None:
        """Work on one device; in its thread."""
        with contextlib.ExitStack() as stack:
            stack.push(self._hand_over)
            self.errands.put(partial(self._note, self._outcome(name)))

    def _outcome(self, name: str) -> Outcome[T]:
        try:
            with open_device(name, Relay(self.ask)) as device:
                self.open[name] = device
                if self.stopping:
                    device.interrupt()
                return Outcome(name, self.work(device, partial(self._tell, name)))
        except EdgeferryError as error:
            return Outcome(name, error=error)

    def _hand_over(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Let an error that nobody expected be raised where somebody sees it."""
        if error is not None:
            self.errands.put(partial(_raise, error))
        return True

    def _tell(self, name: str, message: str) -> None:
        for line in () if self.stopping else message.splitlines():
            self.errands.put(partial(self.say, line if line.startswith(f"{name}: ") else f"{name}: {line}"))

    def ask(self, question: str, wrong: str | None) -> str | None:
        """Have a secret asked for, and wait for it; in a device's thread."""
        reply: Future[str | None] = Future()
        self.asked.add(reply)
        self.errands.put(lambda: self._answer(reply, question, wrong))
        if self.stopping:
            self._give_up(reply)
        return reply.result()

    def _answer(self, reply: Future[str | None], question: str, wrong: str | None) -> None:
        if not reply.done():
            reply.set_result(self.secrets.get(question, wrong))
            self.asked.discard(reply)

    def _note(self, outcome: Outcome[T]) -> None:
        name = outcome.device
        del self.threads[name]
        self.open.pop(name, None)
        if self.stopping and outcome.error:
            return
        self.outcomes[name] = outcome
        self.pace.ended(outcome)
        if self.total > 1:
            self.say(f"{name}: {outcome.kind or 'done'} ({len(self.outcomes)} of {self.total})")

    def _end(self, waiting: Sequence[str]) -> None:
        """End what runs by closing its connections, and say what is not done."""
        self.stopping, running = True, list(self.threads)
        for reply in tuple(self.asked):
            self._give_up(reply)
        deadline = time.monotonic() + GRACE_S
        for device in tuple(self.open.values()):
            device.interrupt()
        for thread in tuple(self.threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._take_note()
        ended = [name for name in running if name not in self.outcomes]
        for what, names in (("ended", ended), ("not begun", waiting)):
            if names:
                self.say(f"{what}: {', '.join(names)}")

    def _take_note(self) -> None:
        """Run the errands that are left; what did succeed counts."""
        with contextlib.suppress(Empty):
            while True:
                self.errands.get_nowait()()

    def _give_up(self, reply: Future[str | None]) -> None:
        with contextlib.suppress(InvalidStateError):
            reply.set_result(None)


class Relay(Secrets):
    """Secrets that another thread asks for."""

    def __init__(self, relayed: Callable[[str, str | None], str | None]) -> None:
        super().__init__()
        self._relayed = relayed

    def get(self, question: str, wrong: str | None = None) -> str | None:
        """See `Secrets.get`."""
        return self._relayed(question, wrong)


def _raise(error: BaseException) -> None:
    raise error
