"""Silence for what native engines say on C's stderr while they load."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

CHATTER = (b"INFO:", b"VERBOSE:")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back file descriptor 2, then print again what is no chatter.

    A process without a file descriptor 2 has nothing to silence.
    """
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
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
