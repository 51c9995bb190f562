"""One at a time: threads of this process and other processes of this host wait for each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until nobody else holds a file, and hold it; the kernel lets go of it where this process dies.

    Args:
        path: The file, which stays; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        with contextlib.suppress(ImportError):  # a host without it has no fleet to install on at once
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
