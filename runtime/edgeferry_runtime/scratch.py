"""Temporary folders that do not outlive a killed process for long: whoever makes the next one removes them.

Each folder holds a file that its process keeps locked. The system drops the lock with the process, however that
ends, so a folder whose lock can be taken belongs to nobody. Process ids would not do: they are used again, and
mean nothing in another container that shares the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK = ".edgeferry-lock"
"""The locked file, which holds the process's id for people to read."""


@contextlib.contextmanager
def scratch(prefix: str = "edgeferry-", suffix: str = "", parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder that is gone whatever happens, and remove what killed processes left.

    Args:
        prefix: What its name begins with.
        suffix: What its name ends with.
        parent: Where to make it; None is the system's folder for temporary files.

    Yields:
        The folder, which holds nothing but `LOCK`.
    """
    place = Path(parent or tempfile.gettempdir())
    sweep(place, prefix, suffix)
    folder = place.absolute() / f"{prefix}{secrets.token_hex(8)}{suffix}"
    try:
        folder.mkdir(mode=0o700)  # a name of our own: an interrupt behind mkdtemp would leave what nobody knows of
        with (folder / f"{LOCK}.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            (folder / f"{LOCK}.new").rename(folder / LOCK)  # nobody ever sees it unlocked
            yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def sweep(parent: Path, prefix: str, suffix: str) -> None:
    """Remove the folders of these names that are ours, and whose process is gone."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            if folder.name.startswith(prefix) and folder.name.endswith(suffix):
                with contextlib.suppress(OSError):
                    _remove_abandoned(folder)


def _remove_abandoned(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return
    with (folder / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
