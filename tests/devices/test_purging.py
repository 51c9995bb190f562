"""Removing our folder from a device: all of it, nothing else, and nothing while it is in use."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import bootstrap, inventory, provision
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.purging import Purged, purge
from edgeferry_devices.pushing import push
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceRequirementError
from edgeferry_runtime.store import Store


def test_all_of_it_goes(place: Any, bundle: Bundle, environment: Path) -> None:
    push(bundle, place.device)
    around = sorted(path for path in place.root.parent.iterdir() if path != place.root)
    done = purge(place.device)
    assert (done.device, Path(done.root), done.removed) == (place.name, place.root, True)
    assert done.files > 4
    assert not place.root.exists()
    assert sorted(place.root.parent.iterdir()) == around
    assert (environment / "edgeferry.json").exists(), "a link was followed"
    assert purge(place.device) == Purged(place.name, str(place.root), False, 0, 0)


def test_a_folder_without_our_marker_stays(place: Any) -> None:
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / ".edgeferry-device").unlink(missing_ok=True)
    (place.root / "thesis.txt").touch()
    with pytest.raises(DeviceRequirementError, match=r"is not ours: it has no \.edgeferry-device; look what is there"):
        purge(place.device)
    assert (place.root / "thesis.txt").exists()


def test_what_is_in_use_stays(place: Any) -> None:
    with (
        Store.open(place.root).lock("ann", 0),
        pytest.raises(DeviceRequirementError, match="in use by another command"),
    ):
        purge(place.device)
    assert (place.root / "store").is_dir()
    assert purge(place.device).removed


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").touch()
    device = LocalDevice(tmp_path / "root")
    store = Store.open(device.root)
    (store.root / "a link").symlink_to(outside, target_is_directory=True)
    (store.root / "store" / "another").symlink_to(outside / "kept.txt")
    (store.root / "dangling").symlink_to("nowhere")
    assert purge(device).files == 5
    assert [path.name for path in outside.iterdir()] == ["kept.txt"]
    device.root.symlink_to(outside, target_is_directory=True)
    (outside / ".edgeferry-device").touch()
    with pytest.raises(DeviceRequirementError, match="is a link to"):
        purge(device)
    assert (outside / "kept.txt").exists()


def test_folders_that_were_made_for_it_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    root = tmp_path / "there" / "made" / "for us" / "root"
    bootstrap.prepare({"root": str(root), "wheels": {}})
    assert purge(LocalDevice(root)).removed
    assert list((tmp_path / "there").iterdir()) == []
    bootstrap.prepare({"root": str(root), "wheels": {}})
    (tmp_path / "there" / "made" / "of another.txt").touch()
    assert purge(LocalDevice(root)).removed
    assert [path.name for path in (tmp_path / "there" / "made").iterdir()] == ["of another.txt"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"made": null}', '{"made": ["/", "/tmp"]}'])
def test_a_marker_of_any_kind_will_do(text: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / ".edgeferry-device").write_text(text)
    assert purge(LocalDevice(root)).removed
    assert tmp_path.is_dir()


def test_what_was_cut_can_be_purged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Store.open(tmp_path / "root").root

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error", str(root / "store"))

    monkeypatch.setattr(bootstrap, "remove", fail)
    with pytest.raises(OSError, match="Input/output"):
        bootstrap.purge({"root": str(root)})
    assert (root / ".edgeferry-device").exists()
    monkeypatch.undo()
    assert bootstrap.purge({"root": str(root)})["removed"]


def test_the_command(place: Any, ferry: Callable[..., tuple[int, str, str]]) -> None:
    Store.open(place.root)
    code, out, err = ferry("device", "remove", place.name, "--purge")
    assert (code, err) == (0, "")
    assert out.startswith(f"{place.name}: removed {place.root}, ")
    assert not place.root.exists()
    assert place.name not in inventory.read()
    assert ("\nremoved pi (" in out) == (place.name == "pi")


def test_without_purge_the_folder_stays(place: Any, ferry: Callable[..., tuple[int, str, str]]) -> None:
    Store.open(place.root)
    assert ferry("device", "remove", place.name)[0] == (2 if place.name == "local" else 0)
    assert place.root.exists()


def test_one_out_of_reach_stays_in_the_inventory(ferry: Callable[..., tuple[int, str, str]]) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    code, out, err = ferry("device", "remove", "gone", "--purge")
    assert (code, out) == (4, "")
    assert err.startswith("gone: its folder was not removed, and the device stays in the inventory\n")
    assert "gone" in inventory.read()


def test_without_python_it_is_left_to_the_user(start_server: Callable, tmp_path: Path) -> None:
    from edgeferry_devices.remote import RemoteDevice

    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    server = start_server(str(tmp_path / "bin"))
    server.trust()
    Store.open(tmp_path / "root")
    device = RemoteDevice(server.entry(tmp_path / "root"))
    try:
        with pytest.raises(DeviceRequirementError, match=r"has no Python to remove .*root with; remove that folder"):
            purge(device)
    finally:
        device.close()
    assert (tmp_path / "root").is_dir()


def test_bootstrap_answers_in_json(tmp_path: Path) -> None:
    request = {"op": "purge", "root": str(tmp_path / "none")}
    assert provision.call(LocalDevice(), sys.executable, request, 60) == {"removed": False, "files": 0, "bytes": 0}
    assert json.loads(json.dumps(request)) == request
