"""The folder of a device: a content-addressed store, the bundles made of it, and one lock.

Below the root::

    .edgeferry-device                 the marker: nothing is ever deleted in a folder without it
    lock                              held while a push, a run or a measurement goes on
    store/<sha256>                    files by content
    store/incoming/<token>/           what is on its way; a leftover is removed by the next push
    bundles/<name>/releases/<id>/     bundles, linked from the store
    bundles/<name>/current            a link to the release that counts
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.bundle import MANIFEST, Bundle, is_bundle
from edgeferry_runtime.errors import BundleError, DeviceError, DeviceRequirementError, EdgeferryError, MissingFileError

MARKER = ".edgeferry-device"
SPARE_BYTES = 1 << 20


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn a file system's refusal into the reason that a user can act on.

    Raises:
        DeviceRequirementError: If the folder is full, read-only or not ours to write.
    """
    try:
        yield
    except EdgeferryError:
        raise
    except OSError as error:
        fix = "give the device another folder: ferry device add NAME ADDRESS --root FOLDER"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space there, or " + fix
        raise DeviceRequirementError(root, f"cannot be written ({error.strerror or error})", fix) from error


def check_name(name: str) -> str:
    """Return a bundle's name if it is safe as a folder's name.

    Raises:
        BundleError: If it is empty, too long, hidden, looks like an option, or holds a slash or a control character.
    """
    fits = 0 < len(name.encode(errors="replace")) <= 200 and name.isprintable()
    if fits and "/" not in name and "\\" not in name and name[0] not in ".- ":
        return name
    raise BundleError(f"bundle {name!r}", "its name cannot be a folder's name", "convert it with another --name")


def acquire(path: Path, owner: str, wait_s: float) -> IO[str]:
    """Take the lock; the kernel frees it when the holder dies. Closing the returned file frees it.

    Raises:
        DeviceError: If another one holds it for longer than `wait_s` seconds; says who and since when.
    """
    import fcntl

    lock = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= deadline:
                lock.close()
                raise DeviceError(path.parent, _who_holds(path), "wait for it to end, then try again") from None
            time.sleep(0.05)
    lock.truncate(0)
    lock.write(json.dumps({"owner": owner, "since": time.time()}))
    lock.flush()
    return lock


def _who_holds(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"is in use by {held['owner']} since {max(0, time.time() - held['since']):.0f} s"
    except (OSError, ValueError, KeyError, TypeError):
        return "is in use by another command"


@dataclass(frozen=True)
class Store:
    """A device's folder.

    Attributes:
        root: Its absolute path.
    """

    root: Path

    @classmethod
    def open(cls, root: Path) -> Store:
        """Make the folder, or take the one that is ours.

        Raises:
            DeviceRequirementError: If it cannot be written, or holds files that are not ours.
        """
        with writing(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (root / MARKER).exists() and any(root.iterdir()):
                reason = "holds files that are not ours"
                raise DeviceRequirementError(root, reason, "give the device another --root, or empty the folder")
            (root / MARKER).touch()
            (root / "store" / "incoming").mkdir(parents=True, exist_ok=True)
            (root / "bundles").mkdir(exist_ok=True)
        return cls(root)

    def free_bytes(self) -> int:
        """Return the space that is free for us."""
        stats = os.statvfs(self.root)
        return stats.f_bavail * stats.f_frsize

    def lock(self, owner: str, wait_s: float) -> IO[str]:
        """Take the device for one command; see `acquire`."""
        with writing(self.root):
            return acquire(self.root / "lock", owner, wait_s)

    def clean(self) -> None:
        """Remove what interrupted commands left behind. Needs the lock."""
        leftovers = [*(self.root / "store" / "incoming").iterdir(), *self.root.glob("bundles/*/releases/.*.part")]
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        for link in self.root.glob("bundles/*/.current.*"):
            link.unlink(missing_ok=True)

    def stage(self) -> Path:
        """Make an empty folder below ``store/incoming`` and return it."""
        with writing(self.root):
            folder = self.root / "store" / "incoming" / uuid.uuid4().hex
            folder.mkdir(mode=0o700)
        return folder

    def blob(self, digest: str) -> Path:
        """Return where a file of this SHA-256 lies."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BundleError(f"hash {digest!r}", "is no SHA-256", "convert the source again")
        return self.root / "store" / digest

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Say which contents are not in the store; one that has rotted is removed and counts as missing."""
        absent = []
        for digest in dict.fromkeys(digests):
            path = self.blob(digest)
            if path.is_file() and sha256_file(path) != digest:
                path.unlink()
            if not path.is_file():
                absent.append(digest)
        return absent

    def admit(self, folder: Path, digests: Iterable[str]) -> None:
        """Move uploaded files, named ``<sha256>.part``, into the store.

        Raises:
            DeviceError: If one is missing, or its content is not what its name says.
        """
        for digest in digests:
            part = folder / f"{digest}.part"
            if not part.is_file() or sha256_file(part) != digest:
                raise DeviceError(
                    f"file {digest[:12]}", "arrived damaged: its SHA-256 differs", "push the bundle again"
                )
            with writing(self.root):
                _sync(part)
                part.replace(self.blob(digest))

    def assemble(self, manifest: Mapping[str, Any]) -> Path:
        """Make a release of files in the store, under a temporary name, and return its folder."""
        releases = self.root / "bundles" / check_name(manifest["name"]) / "releases"
        parts = releases / f".{manifest['id'][:16]}.{uuid.uuid4().hex[:8]}.part"
        try:
            with writing(self.root):
                self._fill(parts, manifest)
        except BaseException:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        return parts

    def _fill(self, parts: Path, manifest: Mapping[str, Any]) -> None:
        parts.mkdir(parents=True)
        for name, digest in manifest["files"].items():
            _link(self.blob(digest), parts / Path(name).name)
        (parts / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _sync(parts / MANIFEST)

    def publish(self, parts: Path, release: str) -> Path:
        """Give an assembled release its name and make it the current one in one step; return its folder."""
        folder = parts.parent.parent
        final = parts.parent / release
        with writing(self.root):
            if final.exists():
                final.rename(parts.with_name(f".{release[:16]}.{uuid.uuid4().hex[:8]}.part"))
            parts.rename(final)
            link = folder / f".current.{uuid.uuid4().hex[:8]}"
            link.symlink_to(Path("releases") / release, target_is_directory=True)
            link.replace(folder / "current")
            _sync(folder)
        return final

    def current(self, name: str) -> Path | None:
        """Return the release that counts; None where there is none."""
        link = self.root / "bundles" / check_name(name) / "current"
        return link.resolve() if link.is_dir() else None

    def release(self, name: str, release: str) -> Path:
        """Return the current release of `name` if it is `release`.

        Raises:
            MissingFileError: If it is not.
        """
        found = self.current(name)
        if found is None or found.name != release:
            raise MissingFileError(f"bundle {name}", "is not on the device", "push it first: ferry push")
        return found

    def is_current(self, name: str, release: str) -> bool:
        """Tell whether `release` is the current one and none of its files has rotted."""
        found = self.current(name)
        if found is None or found.name != release:
            return False
        try:
            bundle = Bundle.open(found)
            bundle.check()
        except EdgeferryError:
            return False
        return bundle.id == release

    def prune(self, keep: Iterable[Path]) -> None:
        """Remove the releases of a bundle that are not in `keep`, then the contents that no release uses."""
        kept = {path.resolve() for path in keep}
        for parent in {path.parent for path in kept}:
            for path in parent.iterdir():
                if path.resolve() not in kept and is_bundle(path):
                    shutil.rmtree(path, ignore_errors=True)
        manifests = self.root.glob(f"bundles/*/releases/*/{MANIFEST}")
        used = {digest for manifest in manifests for digest in _contents(manifest)}
        for blob in (self.root / "store").iterdir():
            if blob.is_file() and blob.name not in used:
                blob.unlink()


def _contents(manifest: Path) -> list[str]:
    """Return the contents that a release uses; a damaged one keeps its own links to them."""
    try:
        return list(json.loads(manifest.read_text(encoding="utf-8"))["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)
        _sync(target)
