"""The folder of a device: a content-addressed store, the bundles made of it, and one lock.

Below the root::

    .edgeferry-device                 the marker: nothing is ever deleted in a folder without it
    lock                              held while a push, a run or a measurement goes on
    store/<sha256>                    files by content
    store/incoming/<token>/           what is on its way; of what was cut off, the next push takes up <sha256>.part
    bundles/<name>/releases/<id>/     bundles, linked from the store
    bundles/<name>/failed/<id>/       the one that failed last, with its report.json, until the next push
    bundles/<name>/proofs/<id>.json   what each release was proven with
    bundles/<name>/current            a link to the release that counts
    bundles/<name>/previous           a link to the one before it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.bundle import MANIFEST, Bundle, is_bundle
from edgeferry_runtime.errors import BundleError, DeviceError, DeviceRequirementError, EdgeferryError, MissingFileError
from edgeferry_runtime.lock import FILE, acquire
from edgeferry_runtime.undo import undo_on_error

MARKER = ".edgeferry-device"
SPARE_BYTES = 1 << 20
PART = ".part"
CURRENT = "current"
"""The link to the release that counts, in the folder of a bundle."""


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

    def lock(self, owner: str, wait_s: float, who: Mapping[str, Any] | None = None) -> IO[str]:
        """Take the device for one command; see `edgeferry_runtime.lock`."""
        with writing(self.root):
            return acquire(self.root / FILE, owner, wait_s, who)

    def clean(self) -> None:
        """Remove what interrupted commands left behind, but for uploads that can be taken up. Needs the lock."""
        leftovers = [path for path in self.uploads() if not any(path.glob(f"*{PART}"))]
        for path in (*leftovers, *self.root.glob("bundles/*/releases/.*.part")):
            shutil.rmtree(path, ignore_errors=True)
        for link in self.root.glob("bundles/*/.[cp]*.*"):
            link.unlink(missing_ok=True)

    def uploads(self) -> list[Path]:
        """Return the folders of what is, or was, on its way."""
        return list((self.root / "store" / "incoming").iterdir())

    def resume(self, folder: Path, digests: Iterable[str]) -> dict[str, tuple[int, str]]:
        """Take up what earlier uploads left of some contents, and remove the rest of them.

        What is taken up is copied: a server that was frozen may still write into the old file.

        Args:
            folder: Where it goes, named ``<sha256>.part``.
            digests: What is still missing.

        Returns:
            By SHA-256 the number of bytes that are there, and the SHA-256 of these.
        """
        there = {}
        for digest in digests:
            parts = [path for old in self.uploads() if old != folder for path in old.glob(f"{digest}{PART}")]
            if found := max(parts, key=lambda part: part.stat().st_size, default=None):
                with contextlib.suppress(OSError):
                    there[digest] = _take_up(found, folder / found.name)
        for old in self.uploads():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        return there

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
            DeviceError: If one is missing, or its content is not what its name says; it is removed.
        """
        for digest in digests:
            part = folder / f"{digest}{PART}"
            if not part.is_file() or sha256_file(part) != digest:
                part.unlink(missing_ok=True)
                raise DeviceError(
                    f"file {digest[:12]}", "arrived damaged: its SHA-256 differs", "push the bundle again"
                )
            with writing(self.root):
                sync(part)
                part.replace(self.blob(digest))
        with writing(self.root):
            sync(self.root / "store")

    def assemble(self, manifest: Mapping[str, Any]) -> Path:
        """Make a release of files in the store, under a temporary name, and return its folder."""
        releases = self.root / "bundles" / check_name(manifest["name"]) / "releases"
        parts = releases / f".{manifest['id'][:16]}.{uuid.uuid4().hex[:8]}.part"
        with undo_on_error(lambda: shutil.rmtree(parts, ignore_errors=True)), writing(self.root):
            self._fill(parts, manifest)
        return parts

    def _fill(self, parts: Path, manifest: Mapping[str, Any]) -> None:
        parts.mkdir(parents=True)
        for name, digest in manifest["files"].items():
            _link(self.blob(digest), parts / Path(name).name)
        (parts / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(parts / MANIFEST)
        sync(parts)

    def publish(self, parts: Path, release: str) -> Path:
        """Give an assembled release its name and make it the current one in one step; return its folder."""
        final = parts.parent / release
        with writing(self.root):
            if final.exists():
                _repair(final, parts)
            else:
                parts.rename(final)
            sync(final.parent)
            self.switch(final)
        return final

    def switch(self, release: Path) -> None:
        """Make a release the current one, and the current one the one before: each in one step, and on the disk."""
        folder = release.parent.parent
        before = self.current(folder.name)
        if before is not None and before.name != release.name:
            _point(folder / "previous", before.name)
        _point(folder / CURRENT, release.name)

    def current(self, name: str) -> Path | None:
        """Return the release that counts; None where there is none."""
        link = self.root / "bundles" / check_name(name) / CURRENT
        return link.resolve() if link.is_dir() else None

    def release(self, name: str, release: str) -> Path:
        """Return the current release of `name`, or the one before it, if it is `release`.

        Raises:
            MissingFileError: If neither is.
        """
        for found in (self.current(name), self.previous(name)):
            if found is not None and found.name == release:
                return found
        raise MissingFileError(f"bundle {name}", "is not on the device", "push it first: ferry push")

    def previous(self, name: str) -> Path | None:
        """Return the release before the current one; None where there is none, or where several could be meant."""
        folder = self.root / "bundles" / check_name(name)
        link, now = folder / "previous", self.current(name)
        if link.is_dir() and link.resolve() != now:
            return link.resolve()
        others = [path for path in folder.glob("releases/[!.]*") if is_bundle(path) and path.resolve() != now]
        return others[0].resolve() if len(others) == 1 else None

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
        for blob in self.unused():
            blob.unlink()

    def unused(self) -> list[Path]:
        """Return the contents that no release uses; what has just failed is not sent again for the asking."""
        kinds = ("releases", "failed")
        manifests = [path for kind in kinds for path in self.root.glob(f"bundles/*/{kind}/*/{MANIFEST}")]
        used = {digest for manifest in manifests for digest in _contents(manifest)}
        return [path for path in (self.root / "store").iterdir() if path.is_file() and path.name not in used]


def _contents(manifest: Path) -> list[str]:
    """Return the contents that a release uses; a damaged one keeps its own links to them."""
    try:
        return list(json.loads(manifest.read_text(encoding="utf-8"))["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder, before anything is built on it."""
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
        sync(target)


def _repair(final: Path, parts: Path) -> None:
    """Replace the files of a release one by one, so that it is never gone."""
    for path in parts.iterdir():
        path.replace(final / path.name)
    sync(final)
    shutil.rmtree(parts)  # renaming leaves both names of one file


def _point(link: Path, release: str) -> None:
    """Make a link to a release, or turn it, in one step."""
    fresh = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}")
    fresh.symlink_to(Path("releases") / release, target_is_directory=True)
    fresh.replace(link)
    sync(link.parent)


def _take_up(source: Path, target: Path) -> tuple[int, str]:
    """Copy what is there of a file; return its size and its SHA-256."""
    seen = hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while chunk := old.read(1 << 20):
            seen.update(chunk)
            new.write(chunk)
    return target.stat().st_size, seen.hexdigest()
