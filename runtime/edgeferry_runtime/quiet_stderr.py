"""Silence for what native engines say on C's stderr while they load."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

CHATTER = (b"INFO:", b"VERBOSE:")
_ONE_AT_A_TIME = threading.RLock()
"""The file descriptor is one for the whole process: two threads that swapped it at once would lose it."""


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back file descriptor 2, then print again what is no chatter.

    A process without a file descriptor 2 has nothing to silence, and one without temporary files cannot.
    """
    try:
        os.fstat(2)
        held = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError:
        yield
        return
    with _ONE_AT_A_TIME, held:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            _print_again(held.read().splitlines(keepends=True))


def _print_again(lines: list[bytes]) -> None:
    for line in lines:
        if not line.startswith(CHATTER):
            os.write(2, line)
