"""Folders in which releases appear, and the place of our own from which they are served.

A user's bundle folder may be overwritten while its files are mapped, which would change or kill what runs on them. So
its files are copied, and those of a device's release, which are only ever replaced by renaming, are linked.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeferry_runtime.bundle import MANIFEST, Bundle
from edgeferry_runtime.errors import BundleError, DeviceRequirementError, EdgeferryError
from edgeferry_runtime.store import CURRENT, check_name
from edgeferry_runtime.undo import undo_on_error


@dataclass(frozen=True)
class Found:
    """What lies in a folder at a moment.

    Attributes:
        folder: The release.
        linked: Whether it is one of a device's, whose files nobody writes into.
        stamp: Name, inode, size and time of each file; it changes with them.
    """

    folder: Path
    linked: bool
    stamp: tuple[tuple[str, int, int, int], ...]

    @property
    def release(self) -> str:
        """The id of a device's release, by which its folder is named; empty for another folder."""
        return self.folder.name if self.linked else ""


def look(path: Path) -> Found | None:
    """Look at a bundle's folder, or at a device's folder of its releases, without reading a file.

    Returns:
        What lies there; None where there is no such folder.
    """
    try:
        linked = (path / CURRENT).is_symlink()
        folder = (path / CURRENT if linked else path).resolve()
        with os.scandir(folder) as files:
            return Found(folder, linked, tuple(sorted(map(_stamp, files))))
    except (OSError, RuntimeError) as error:  # a loop of links
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            reason, fix = "has too many files open to look there", "close some, or raise the limit: ulimit -n"
            raise DeviceRequirementError(path, reason, fix) from error
        return None


def _stamp(file: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        stat = file.stat()
    except OSError:  # a link to nothing, or gone in this moment
        return file.name, 0, 0, 0
    return file.name, stat.st_ino, stat.st_size, stat.st_mtime_ns


def listed(repository: Path) -> dict[str, Path]:
    """Return the bundles of a folder by name, which a client may load; other folders and hidden ones are none."""
    try:
        return {path.name: path for path in sorted(repository.iterdir()) if _is_name(path.name) and _is_bundle(path)}
    except OSError:
        return {}


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except BundleError:
        return False


def _is_bundle(path: Path) -> bool:
    try:
        return (path / MANIFEST).is_file() or (path / CURRENT).is_symlink()
    except OSError:  # a folder that we may not enter
        return False


def stage(found: Found, place: Path) -> Bundle:
    """Bring a release to a new folder of our own, and compare every file's SHA-256 with its manifest there.

    Args:
        found: The release.
        place: Where to make the folder.

    Raises:
        MissingFileError, BundleError: If it is no bundle, is damaged, or changed meanwhile.
        DeviceRequirementError: If there is no room for it.
    """
    bundle = Bundle.open(found.folder)
    folder = _writing(place, lambda: Path(tempfile.mkdtemp(dir=place)))
    with undo_on_error(partial(discard, folder)):
        for name in dict.fromkeys((*bundle.manifest.files, MANIFEST)):
            _writing(place, partial(_bring, found.folder / name, folder / name, found.linked))
        try:
            staged = Bundle.open(folder)
            staged.check()
        except BundleError as error:
            raise BundleError(found.folder, error.reason, error.fix) from None
    return staged


def discard(folder: Path) -> None:
    """Remove what `stage` made; files that are still mapped live on."""
    shutil.rmtree(folder, ignore_errors=True)


def _bring(source: Path, target: Path, linked: bool) -> Path:
    try:
        if linked:
            os.link(source, target)
            return target
    except OSError:  # another file system, one without links, or a file of another user
        target.unlink(missing_ok=True)
    return Path(shutil.copyfile(source, target))


def _writing(place: Path, write: Callable[[], Path]) -> Path:
    try:
        return write()
    except OSError as error:
        if isinstance(error, EdgeferryError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"has no room for a release ({error.strerror})"
            raise DeviceRequirementError(
                place, reason, "free some space there, or name another folder by TMPDIR"
            ) from error
        raise BundleError(
            error.filename or place, f"cannot be read ({error.strerror or error})", "check its permissions"
        ) from error
