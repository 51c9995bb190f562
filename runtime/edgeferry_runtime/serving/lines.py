"""Lines for stderr that nobody ever waits for: a pipe that is full stops the log, and never the server."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from datetime import datetime, timezone

MOST = 10_000
"""Lines that wait at most; more are dropped, and counted."""

PAUSE_S = 0.02
"""How long lines gather before they are written together, so that a busy server wakes its writer 50 times a second."""


class Lines:
    """Writes lines in a thread of its own.

    Args:
        descriptor: Where to; None writes nowhere.

    Attributes:
        dropped: Lines that found no room, or nobody who reads.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._come, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="lines", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take a line, without its end; returns at once, from any thread."""
        if len(self._waiting) >= MOST or self._descriptor is None:
            self.dropped += 1
            return
        self._waiting.append(line)
        if not self._come.is_set():
            self._come.set()

    def say(self, text: str) -> None:
        """Take a line of text."""
        self.write(text.encode("utf-8", "backslashreplace"))

    def close(self, wait_s: float = 1.0) -> None:
        """Write what waits, for so long at most."""
        self._closing.set()
        self._come.set()
        self._thread.join(wait_s)

    def _write_all(self) -> None:
        while not self._closing.is_set() or self._waiting:
            self._come.wait()
            self._closing.wait(PAUSE_S)
            self._come.clear()
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if lines and self._descriptor is not None:
                self._write(b"\n".join([*lines, b""]), self._descriptor, len(lines))

    def _write(self, text: bytes, descriptor: int, count: int) -> None:
        try:
            while text:
                text = text[_write_some(descriptor, text) :]
        except OSError:
            self.dropped += count


class LineHandler(logging.Handler):
    """Gives what libraries log to `Lines`, as one JSON object a line."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record, with its traceback."""
        told = {"time": now(), "level": record.levelname.lower(), "logger": record.name, "text": self.format(record)}
        self._lines.say(json.dumps(told))


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_some(descriptor: int, text: bytes) -> int:
    try:
        return os.write(descriptor, text)
    except BlockingIOError:
        time.sleep(PAUSE_S)
        return 0
