"""Names that are shell, options, or ways out of a folder: safe, or refused before anything is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import inventory
from edgeferry_devices.keeping import gc, releases, rollback
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, EdgeferryError, UsageError

over_ssh = pytest.mark.parametrize("place", ["openssh"], indirect=True)
ODD = 'two words; $(touch owned) `touch owned` "quoted" it\'s & * ?'
DANGEROUS = ["../up", "a/b", "-rf", ".hidden", "new\nline", "", "nul\0"]


def test_an_odd_folder_of_a_device(server: Any, root: Path, bundle: Bundle, tmp_path: Path) -> None:
    odd = root.with_name(ODD)
    root.rename(odd)
    device = RemoteDevice(server.entry(odd))
    try:
        push(bundle, device)
        assert [release.state for release in releases(device)] == ["current"]
    finally:
        device.close()
    assert (odd / "bundles/tiny/current").is_dir()
    assert not list(tmp_path.rglob("owned"))
    assert not (server.home / "owned").exists()


@pytest.mark.parametrize("folder", ["/two\nlines", "-rf", "../up", "/a/../b", "~/../b", "~", "/", "", "/nul\0"])
def test_dangerous_folders_of_devices_are_refused(folder: str, server: Any) -> None:
    with pytest.raises(UsageError, match="is not a folder of our own"):
        inventory.add(server.entry(folder))


@pytest.mark.parametrize("name", ["-o two words", 'it\'s "a" bundle', "$(touch owned)"])
@over_ssh
def test_an_odd_folder_of_a_bundle(place: Any, bundle: Bundle, name: str, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / name)
    push(Bundle.open(tmp_path / name), place.device)
    Bundle.open(place.root / "bundles/tiny/current").check()
    assert not list(tmp_path.rglob("owned"))


@over_ssh
def test_dangerous_bundles_to_go_back_to(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    with place.device.open_agent() as agent:
        for name in DANGEROUS:
            for operation in ("rollback", "releases"):
                taken = {"owner": "ann@desk"} if operation == "rollback" else {}
                with pytest.raises(BundleError, match="cannot be a folder's name"):
                    agent.ask(operation, name=name, **taken)
    gc(place.device)
    assert (place.root / "bundles/tiny/current").resolve().name == bundle.id


@over_ssh
def test_odd_bundles_have_releases_too(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    name = ODD.replace("/", " ")
    old, new = make_bundle(name), make_bundle(name, padding=100)
    push(old, place.device)
    push(new, place.device)
    assert rollback(name, place.device)["id"] == old.id
    assert {release.name for release in releases(place.device, name)} == {name}


@pytest.mark.parametrize("name", ["-rf", "a b", "a/b", "../up", "new\nline", "", "local", "it's", "$(id)"])
def test_dangerous_devices_are_refused(name: str, server: Any, root: Path) -> None:
    with pytest.raises(EdgeferryError):
        inventory.add(replace(server.entry(root), name=name))


@over_ssh
def test_odd_labels_arrive_as_they_are(place: Any, bundle: Bundle, tmp_path: Path) -> None:
    from edgeferry_runtime.bundle import write_bundle

    labels = '-rf\n../../etc\n$(touch owned)\n"it\'s"\n'

    def fill(folder: Path) -> None:
        for name in ("model.onnx", "probe.npz"):
            shutil.copyfile(bundle.path / name, folder / name)
        (folder / "labels.txt").write_text(labels)

    push(write_bundle(tmp_path / "labelled", bundle.manifest, fill), place.device)
    assert (place.root / "bundles/tiny/current/labels.txt").read_text() == labels
