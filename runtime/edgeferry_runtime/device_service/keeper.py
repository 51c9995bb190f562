"""The process that keeps a server running in the background, and its log short, as systemd does where there is one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

LOG_BYTES = 1 << 20
"""Then what was said becomes ``log.1``, and what that was is forgotten."""
TOLD_BYTES = 256
"""What is written over is always of one length, so that nobody reads half of it."""
RESTART_S = 2.0
BURST, BURST_S = 5, 300.0
"""More failures within so many seconds are the end."""


class Keeper:
    """Keeps a command running until it is told to stop, it ends well, or it fails too often.

    Args:
        folder: Where the log is.
        command: The program and its arguments.
    """

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder, self.command = folder, list(command)
        self.told = threading.Event()
        self.failed = ""
        self.failures: deque[float] = deque(maxlen=BURST)

    def run(self, lock: IO[str]) -> int:
        """Keep it running, and return the exit status of the last time."""
        while True:
            status = self.once(lock)
            if self.told.is_set() or status == 0:
                return status
            self.failures.append(time.monotonic())
            self.failed = f"it ended with status {status}" if status > 0 else f"signal {-status} ended it"
            self.tell(lock)
            if len(self.failures) == BURST and self.failures[-1] - self.failures[0] < BURST_S:
                return status
            if self.told.wait(RESTART_S):
                return status

    def once(self, lock: IO[str]) -> int:
        """Run it once; whatever it says is kept."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(self.command, **pipes, pass_fds=[lock.fileno()]) as child:  # type: ignore[call-overload]
            if self.told.is_set():  # the signal came before there was a child in our group
                child.terminate()
            self.tell(lock, child.pid)
            for line in child.stdout:
                self.keep(line)
        return int(child.returncode)

    def keep(self, line: bytes) -> None:
        """Add a line to the log; a disk that is full does not end the server."""
        log = self.folder / "log"
        with contextlib.suppress(OSError):
            if log.exists() and log.stat().st_size + len(line) > LOG_BYTES:
                log.replace(self.folder / "log.1")
            with log.open("ab") as file:
                file.write(line)

    def tell(self, lock: IO[str], server: int | None = None) -> None:
        """Write down which group we are, which process of it serves, and how that failed last."""
        text = json.dumps({"group": os.getpgrp(), "server": server, "failed": self.failed})
        with contextlib.suppress(OSError):
            os.pwrite(lock.fileno(), text.ljust(TOLD_BYTES).encode(), 0)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, which the server, being of our group, has got too."""
        self.told.set()


def main(lock: str, folder: str, *command: str) -> int:
    """Keep a command running, in a child of this process: whoever started us need not wait for more than us.

    Args:
        lock: The descriptor of the locked file, in which we write who we are.
        folder: Where the log is.
        command: The program and its arguments.
    """
    os.umask(0o077)
    with os.fdopen(int(lock), "r+", encoding="utf-8") as held:
        keeper = Keeper(Path(folder), command)
        signal.signal(signal.SIGTERM, keeper.stop)
        keeper.tell(held)
        if os.fork():
            os._exit(0)
        return keeper.run(held)
