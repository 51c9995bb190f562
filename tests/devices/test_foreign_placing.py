"""Files are placed by their content, in a folder of ours, and checked there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices.foreign.placing import Blob, place
from edgeferry_devices.local import LocalDevice
from edgeferry_runtime.errors import DeviceRequirementError

CONTENT = b"content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / "it's a file"
    path.write_bytes(CONTENT)
    return Blob(path, DIGEST, "model.tflite")


class Careless(LocalDevice):
    """Loses the last byte of everything."""

    def put(self, local: Path, remote: str, offset: int = 0) -> int:
        Path(remote).write_bytes(local.read_bytes()[:-1])
        return local.stat().st_size


def test_once_and_private(tmp_path: Path, blob: Blob) -> None:
    said: list[str] = []
    device = LocalDevice(tmp_path / "a b" / "root")
    remote = place(device, blob, said.append)
    assert remote == str(tmp_path / "a b" / "root" / DIGEST / "model.tflite")
    assert Path(remote).read_bytes() == CONTENT
    assert Path(remote).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a b" / "root" / ".edgeferry-device").exists()
    assert place(device, blob, said.append) == remote
    assert len(said) == 1


def test_a_file_that_arrives_damaged_is_not_used(tmp_path: Path, blob: Blob) -> None:
    with pytest.raises(DeviceRequirementError, match="arrived damaged"):
        place(Careless(tmp_path / "root"), blob, lambda line: None)
    assert not (tmp_path / "root" / DIGEST / "model.tflite").exists()
    assert place(LocalDevice(tmp_path / "root"), blob, lambda line: None)


def test_a_folder_with_our_marker_may_hold_more(tmp_path: Path, blob: Blob) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / ".edgeferry-device").touch()
    (root / "bundles").mkdir()
    assert place(LocalDevice(root), blob, lambda line: None)


def test_a_folder_below_home(server: Any, home: Path, blob: Blob, tmp_path: Path) -> None:
    """Over SSH our folder may begin with a tilde, which no shell expands in an argument."""
    from edgeferry_devices.remote import RemoteDevice

    device = RemoteDevice(server.entry("~/.local/share/edgeferry"))
    try:
        remote = place(device, blob, lambda line: None)
    finally:
        device.close()
    assert remote == str(server.home / ".local/share/edgeferry" / DIGEST / "model.tflite")
    assert Path(remote).read_bytes() == CONTENT
