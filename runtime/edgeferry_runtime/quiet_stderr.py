"""Silence for what native engines say on C's stderr while they load, and its text where it is evidence."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

CHATTER = (b"INFO:", b"VERBOSE:")
_ONE_AT_A_TIME = threading.RLock()
"""The file descriptor is one for the whole process: two threads that swapped it at once would lose it."""


class Said:
    """What was said; complete when the block has ended."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back file descriptor 2, then print again what is no chatter.

    A process without a file descriptor 2 has nothing to silence, and one without temporary files cannot.
    """
    with _hold(lambda data: _print_again(data.splitlines(keepends=True))):
        yield


@contextlib.contextmanager
def capture_output() -> Iterator[Said]:
    """Hold back file descriptors 1 and 2, and give their text instead of printing it."""
    said = Said()

    def keep(data: bytes) -> None:
        said.text = data.decode(errors="replace")

    with _hold(keep, also=1):
        yield said


@contextlib.contextmanager
def _hold(use: Callable[[bytes], None], also: int | None = None) -> Iterator[None]:
    """Hold back file descriptor 2 and maybe another, then hand over what was written."""
    descriptors = [2] if also is None else [2, also]
    try:
        for descriptor in descriptors:
            os.fstat(descriptor)
        held = _scratch_file()
    except OSError:
        yield
        return
    with _ONE_AT_A_TIME, held:
        _flush(descriptors)
        kept = [os.dup(descriptor) for descriptor in descriptors]
        for descriptor in descriptors:
            os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            _flush(descriptors)
            for descriptor, copy in zip(descriptors, kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            held.seek(0)
            use(held.read())


def _scratch_file() -> IO[bytes]:
    """Open a file without a name: in memory on Linux, which does not need the modules that temporary files do."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("held"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


def _flush(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        stream = {1: sys.stdout, 2: sys.stderr}[descriptor]
        if stream is not None and not stream.closed:
            stream.flush()


def _print_again(lines: list[bytes]) -> None:
    for line in lines:
        if not line.startswith(CHATTER):
            os.write(2, line)
