"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from edgeferry_runtime.undo import undo_on_error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that replaces an older one when the body has ended, and only then.

    Raises:
        OSError: If it cannot be written; then nothing is left behind. A full disk, which names no file, names `path`.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.absolute().parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_private(path: Path, content: str | bytes) -> None:
    """Replace a file of mode 0600 in one step, making its folder."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def swap_folder(new: Path, path: Path) -> None:
    """Put the folder `new` at `path`; what was there is kept until the new one stands."""
    if not path.exists():
        new.rename(path)
        return
    aside = path.with_name(f".{path.name}.old-{new.name}")
    path.rename(aside)
    with undo_on_error(partial(_put_back, aside, path)):
        new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(aside: Path, path: Path) -> None:
    with contextlib.suppress(OSError):
        aside.rename(path)
