"""The releases of a device: which there are, the one that failed last, and what nobody needs any more."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeferry_runtime import proofs
from edgeferry_runtime.bundle import is_bundle
from edgeferry_runtime.errors import MissingFileError
from edgeferry_runtime.store import Store, check_name

REPORT = "report.json"
FAILED = "failed"


def listing(store: Store, name: str | None = None) -> list[dict[str, Any]]:
    """Say what is there: each release of each bundle, or of one.

    Raises:
        MissingFileError: If there is no bundle of this name.
    """
    names = sorted(path.name for path in (store.root / "bundles").iterdir() if path.is_dir())
    if name is not None and check_name(name) not in names:
        there = ", ".join(names) or "none"
        raise MissingFileError(f"bundle {name}", "is not on the device", f"there are: {there}")
    return [row for found in ([name] if name is not None else names) for row in _rows(store, found)]


def _rows(store: Store, name: str) -> Iterator[dict[str, Any]]:
    folder = store.root / "bundles" / name
    states = {store.previous(name): "previous", store.current(name): "current"}
    for path in sorted((*folder.glob("releases/[!.]*"), *folder.glob(f"{FAILED}/[!.]*"))):
        if is_bundle(path):
            state = FAILED if path.parent.name == FAILED else states.get(path.resolve(), "old")
            kept = {} if state == FAILED else proofs.read(store, name, path.name)
            told = {"report": report(path), "proof": kept}
            yield {"name": name, "id": path.name, "state": state, "bytes": _size(path), **told}


def report(release: Path) -> dict[str, Any]:
    """Return why a release failed; empty where it did not."""
    try:
        told = json.loads((release / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def set_aside(store: Store, parts: Path, manifest: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Keep a release that failed, with its report, until the next push of its bundle; the disk may be full."""
    failed = store.root / "bundles" / manifest["name"] / FAILED
    with contextlib.suppress(OSError):
        failed.mkdir(exist_ok=True)
        (parts / REPORT).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        parts.rename(failed / manifest["id"])


def forget_failed(store: Store, name: str) -> None:
    """Remove what failed in the round before."""
    shutil.rmtree(store.root / "bundles" / check_name(name) / FAILED, ignore_errors=True)


def before(store: Store, name: str) -> Path:
    """Return the release to go back to.

    Raises:
        MissingFileError: If there is none.
    """
    listing(store, name)
    found = store.previous(name)
    if found is None:
        raise MissingFileError(f"bundle {name}", "has no release before the current one", "push another one")
    return found


def garbage(store: Store) -> dict[str, list[Path]]:
    """Say what can go, by kind: never a current release, nor the one before it. Needs the lock."""
    releases: list[Path] = []
    failed: list[Path] = []
    orphans: list[Path] = []
    for folder in (store.root / "bundles").iterdir():
        kept = {store.current(folder.name), store.previous(folder.name)}
        ours = [path for path in folder.glob("releases/[!.]*") if is_bundle(path)]
        releases += [path for path in ours if kept - {None} and path.resolve() not in kept]
        failed += folder.glob(f"{FAILED}/*")
        orphans += proofs.orphans(store, folder.name)
    kinds = {"release": releases, "failed release": failed, "proof": orphans}
    return {**kinds, "upload": store.uploads(), "content": store.unused()}


def collect(store: Store, dry_run: bool) -> dict[str, Any]:
    """Remove what can go, and say what it was. Needs the lock."""
    gone = []
    free = store.free_bytes()
    for _ in range(1 if dry_run else 2):  # contents fall free with the releases that used them
        for kind, paths in garbage(store).items():
            gone += [{"kind": kind, "path": str(p.relative_to(store.root)), "bytes": _size(p)} for p in paths]
            if not dry_run:
                _remove(paths)
    return {"removed": gone, "dry_run": dry_run, "freed_bytes": max(0, store.free_bytes() - free)}


def _remove(paths: list[Path]) -> None:
    for path in paths:
        doomed = path.with_name(f".{uuid.uuid4().hex[:8]}.part") if path.is_dir() else path
        path.rename(doomed)
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
