"""Float artifacts, kept beside the user's other caches so that a bundle can be explained without its framework.

Below ``$XDG_CACHE_HOME/edgeferry/float`` each lies under its SHA-256, which a bundle's manifest names. The folder
may be deleted at any time; it holds `KEPT_BYTES` at most, and lets go first of what was used longest ago.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from edgeferry_runtime.artifact_files import artifact_sha256, companions, sha256_file
from edgeferry_runtime.undo import undo_on_error

KEPT_BYTES = 2 * 2**30


def folder() -> Path:
    """Return where float artifacts are kept."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "edgeferry" / "float"


def keep(artifact: Path) -> str:
    """Keep a copy of a float artifact, readable by its owner alone; return its SHA-256 as 64 hex digits.

    Where the folder cannot be written, or the file alone is larger than all that may be kept, nothing is kept; nor
    is one of several files, which is larger still.
    """
    sha256 = artifact_sha256(artifact)
    target = _place(sha256, artifact.suffix)
    if companions(artifact) or artifact.stat().st_size > KEPT_BYTES:
        return sha256
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not target.exists():
            _copy(artifact, target)
        os.utime(target, ns=(time.time_ns(),) * 2)  # the kernel's own clock is coarser than a copy takes
        _let_go()
    return sha256


def find(sha256: str, format_name: str) -> Path | None:
    """Return the float artifact of that hash; None where it is not kept, or was changed."""
    path = _place(sha256, f".{format_name}")
    if not sha256.isalnum() or not path.is_file() or sha256_file(path) != sha256:
        return None
    return path


def _place(sha256: str, suffix: str) -> Path:
    return folder() / f"{sha256}{suffix}"


def _copy(source: Path, target: Path) -> None:
    with (
        tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", suffix=".part", delete=False) as part,
        undo_on_error(lambda: Path(part.name).unlink(missing_ok=True)),
        source.open("rb") as stream,
    ):
        shutil.copyfileobj(stream, part)
        part.flush()
        Path(part.name).replace(target)


def _let_go() -> None:
    """Delete what was used longest ago until the rest fits."""
    kept = [(path.stat(), path) for path in folder().iterdir() if path.is_file() and not path.name.startswith(".")]
    total = sum(stat.st_size for stat, _ in kept)
    for stat, path in sorted(kept, key=lambda entry: entry[0].st_mtime_ns):
        if total <= KEPT_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size
