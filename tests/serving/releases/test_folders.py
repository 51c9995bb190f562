"""Folders in which releases appear, and the place of our own from which they are served."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, DeviceRequirementError, MissingFileError
from edgeferry_runtime.serving.folders import Found, discard, listed, look, stage

Make = Callable[..., Bundle]


def found(path: Path) -> Found:
    seen = look(path)
    assert seen is not None
    return seen


def test_a_look_sees_every_change(tmp_path: Path, make: Make) -> None:
    assert look(tmp_path / "m") is None
    path = make(tmp_path / "m", 1).path
    looks = [found(path)]
    assert found(path) == looks[0]
    (path / "model.onnx").touch()
    looks.append(found(path))
    (path / "new").write_text("")
    looks.append(found(path))
    (path / "new").unlink()
    (path / "new").symlink_to("nowhere")
    looks.append(found(path))
    make(tmp_path / "m", 1)
    looks.append(found(path))
    assert len(set(looks)) == len(looks)
    (tmp_path / "loop").symlink_to("loop")
    assert look(tmp_path / "loop") is None


def test_a_device_has_a_release_that_counts(release: Callable[..., Path]) -> None:
    folder = release(1)
    one = found(folder)
    assert (one.linked, one.folder.parent.name) == (True, "releases")
    release(2)
    assert found(folder).folder != one.folder


def test_a_device_release_is_linked_and_another_copied(
    tmp_path: Path, make: Make, release: Callable[..., Path]
) -> None:
    """Who overwrites a bundle's file does not reach the copy."""
    place = tmp_path / "place"
    place.mkdir()
    folder, plain = release(1), make(tmp_path / "plain", 2)
    linked, copied = stage(found(folder), place), stage(found(plain.path), place)
    assert linked.artifact.samefile(folder / "current" / "model.onnx")
    assert copied.id == plain.id
    plain.artifact.write_bytes(b"other")
    copied.check()
    with pytest.raises(BundleError, match=f"{plain.path}: model.onnx was changed"):
        stage(found(plain.path), place)
    discard(copied.path)
    assert list(place.iterdir()) == [linked.path]
    assert linked.artifact.exists()


def test_what_cannot_be_staged_leaves_nothing(tmp_path: Path, make: Make) -> None:
    place = tmp_path / "place"
    place.mkdir()
    seen = found(make(tmp_path / "m", 1).path)
    gone = Found(tmp_path / "gone", False, ())
    with pytest.raises(MissingFileError, match="no such bundle"):
        stage(gone, place)
    with pytest.raises(BundleError, match=r"cannot be read \(No such file or directory\)"):
        stage(seen, tmp_path / "no place")
    assert list(place.iterdir()) == []


def test_what_cannot_be_looked_at_is_not_called_gone(tmp_path: Path) -> None:
    held = contextlib.ExitStack()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(int(p.name) for p in Path("/proc/self/fd").iterdir()) + 2, hard)
        )
        with contextlib.suppress(OSError):
            while True:
                held.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(DeviceRequirementError, match="too many files open to look there"):
            look(tmp_path)
    assert look(tmp_path) is not None


def test_only_bundles_are_listed(tmp_path: Path, make: Make, release: Callable[..., Path]) -> None:
    folder = release(1).parent
    make(folder / "a", 1), make(folder / ".hidden", 1), make(folder / "a\\b", 1)
    (folder / "other").mkdir()
    (folder / "file").write_text("")
    assert listed(folder) == {"a": folder / "a", "plus": folder / "plus"}
    assert listed(tmp_path / "nowhere") == {}
