"""The end of the server's process: asked for by a signal, and forced by a second one or by time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from edgeferry_runtime.serving.lines import Lines

GRACE_S = 1.0
"""What closing takes beyond the requests in flight."""


class Ending:
    """Waits for SIGTERM and SIGINT.

    The first of them cancels the server's life, be it in the middle of loading. A second one, or time, ends the process
    at once: no thread that an engine keeps can hold it.

    Args:
        drain_s: How long requests in flight may take.
        lines: Where it says so.
        life: What it cancels.
    """

    def __init__(self, drain_s: float, lines: Lines, life: asyncio.Task[None]) -> None:
        self._drain_s, self._lines, self._life = drain_s, lines, life
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._come, number)

    def _come(self, number: signal.Signals) -> None:
        if self._asked:
            self._force(f"{number.name} once more: ended at once", 128 + number)
        self._asked = True
        self._lines.say(f"{number.name}: finishing what is in flight, for {self._drain_s:g} s at most")
        timer = threading.Timer(self._drain_s + GRACE_S, self._force, ("ended with work unfinished", 1))
        timer.daemon = True
        timer.start()
        self._life.cancel()

    def _force(self, text: str, status: int) -> None:
        self._lines.say(text)
        self._lines.close()
        os._exit(status)
