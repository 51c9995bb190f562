"""What a device keeps: releases, the one that failed, the way back, and what nobody needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_devices.deploying import deploy
from edgeferry_devices.keeping import gc, releases, rollback
from edgeferry_devices.pushing import push
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, MissingFileError, VerificationError
from edgeferry_runtime.store import Store

over_ssh = pytest.mark.parametrize("place", ["openssh"], indirect=True)
near_and_far = pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)


def states(place: Any) -> dict[str, str]:
    return {release.id: release.state for release in releases(place.device)}


def current(place: Any) -> str:
    return str((place.root / "bundles/tiny/current").resolve().name)


@near_and_far
def test_releases_rollback_and_back_again(place: Any, bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    other = make_bundle(padding=1000)
    push(bundle, place.device)
    push(other, place.device)
    assert states(place) == {other.id: "current", bundle.id: "previous"}
    done = rollback("tiny", place.device)
    assert (done["from"], done["id"]) == (other.id, bundle.id)
    assert done["figures"][0]["max_abs"] < 1e-5
    assert states(place) == {other.id: "previous", bundle.id: "current"}
    rollback("tiny", place.device)
    assert current(place) == other.id


@over_ssh
def test_what_failed_is_kept_aside_for_one_round(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    good, bad = make_bundle(), make_bundle(wrong=0.5)
    push(good, place.device)
    with pytest.raises(VerificationError, match=f"release {good.id[:12]} stays the current one"):
        push(bad, place.device)
    assert states(place) == {good.id: "current", bad.id: "failed"}
    failed = next(release for release in releases(place.device) if release.state == "failed")
    assert failed.report["type"] == "VerificationError"
    assert "y: max abs error 0.5" in failed.report["reason"]
    with pytest.raises(VerificationError):
        push(bad, place.device)
    push(make_bundle(padding=1000), place.device)
    assert "failed" not in states(place).values()
    assert not list(place.root.glob("bundles/*/failed/*"))


@over_ssh
def test_a_rotten_release_is_not_gone_back_to(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    old, new = make_bundle(padding=10), make_bundle(padding=20)
    push(old, place.device)
    push(new, place.device)
    labels = place.root / "bundles/tiny/releases" / old.id / "recipe.toml"
    labels.unlink()
    labels.write_text("rotten")
    with pytest.raises(BundleError, match=r"recipe\.toml was changed"):
        rollback("tiny", place.device)
    assert current(place) == new.id


@pytest.mark.parametrize(("name", "error"), [("tine", MissingFileError), ("../../etc", BundleError)])
@over_ssh
def test_rollback_of_what_is_not_there(place: Any, bundle: Bundle, name: str, error: type) -> None:
    push(bundle, place.device)
    with pytest.raises(error):
        rollback(name, place.device)
    with pytest.raises(MissingFileError, match="has no release before the current one"):
        rollback("tiny", place.device)


@near_and_far
def test_gc_keeps_the_current_and_the_one_before(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    bundles = [make_bundle(padding=size) for size in (1000, 2000)]
    for bundle in bundles:
        push(bundle, place.device)
    with pytest.raises(VerificationError):
        push(make_bundle(wrong=0.5), place.device)
    upload = place.root / "store/incoming/cut"
    upload.mkdir()
    (upload / f"{'0' * 64}.part").write_bytes(bytes(500))
    (place.root / "store" / ("1" * 64)).write_bytes(bytes(700))
    told = gc(place.device, dry_run=True)
    assert {each["kind"] for each in told["removed"]} == {"failed release", "upload", "content"}
    assert len(states(place)) == 3
    kinds = {each["kind"]: each["bytes"] for each in gc(place.device)["removed"]}
    assert kinds["upload"] == 500
    assert states(place) == {bundles[1].id: "current", bundles[0].id: "previous"}
    assert gc(place.device)["removed"] == []
    for release in (place.root / "bundles/tiny/releases").iterdir():
        Bundle.open(release).check()


def test_deploy_goes_on_past_a_device_that_fails(home: Path, bundle: Bundle) -> None:
    done = deploy(bundle, ["nowhere", "local", "local"])
    assert [(each.device, each.error is None) for each in done] == [("nowhere", False), ("local", True)]
    assert done[1].result().id == bundle.id


@near_and_far
def test_a_cut_upload_is_taken_up(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    large = make_bundle(padding=3_000_000)
    leave_part(place, large, 2_000_000)
    whole = sum((large.path / name).stat().st_size for name in large.manifest.files)
    assert push(large, place.device).bytes_sent == whole - 2_000_000
    Bundle.open(place.root / "bundles/tiny/current").check()
    assert list((place.root / "store/incoming").iterdir()) == []


@over_ssh
def test_a_damaged_part_is_sent_anew(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    large = make_bundle(padding=3_000_000)
    part = leave_part(place, large, 2_000_000)
    content = bytearray(part.read_bytes())
    content[1_000_000] ^= 1
    part.write_bytes(content)
    assert push(large, place.device).bytes_sent > 3_000_000
    Bundle.open(place.root / "bundles/tiny/current").check()


def leave_part(place: Any, bundle: Bundle, size: int) -> Path:
    """Leave what a cut push leaves."""
    Store.open(place.root)
    folder = place.root / "store/incoming/cut"
    folder.mkdir()
    part = folder / f"{bundle.manifest.files['recipe.toml']}.part"
    part.write_bytes((bundle.path / "recipe.toml").read_bytes()[:size])
    return Path(part)


def test_without_sftp_a_checked_stream_carries_files(
    start_server: Callable, root: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    from edgeferry_devices.remote import RemoteDevice

    server = start_server(sftp=False)
    server.trust()
    device = RemoteDevice(server.entry(root))
    try:
        assert push(make_bundle('it\'s "a" $name', padding=600_000), device).bytes_sent > 600_000
        (tmp_path / "sent").write_bytes(np.random.default_rng(0).bytes(300_000))
        assert device.put(tmp_path / "sent", str(root / "-odd 'name'\n")) == 300_000
        assert device.put(tmp_path / "sent", str(root / "-odd 'name'\n"), 300_000) == 0
        device.get(str(root / "-odd 'name'\n"), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
        with pytest.raises(OSError, match="sent could not be copied"):
            device.put(tmp_path / "sent", str(root / "none/at all"))
        assert device.exec(["true"]).exit_status == 0
    finally:
        device.close()


def test_store_of_an_earlier_version_has_a_way_back(tmp_path: Path, bundle: Bundle) -> None:
    """Before there was a link to it, the release before was the only other one."""
    store = Store.open(tmp_path / "root")
    for name, digest in bundle.manifest.files.items():
        store.blob(digest).write_bytes((bundle.path / name).read_bytes())
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    final = store.publish(store.assemble(manifest), bundle.id)
    final.rename(final.with_name("0" * 64))
    store.publish(store.assemble(manifest), bundle.id)
    assert not (tmp_path / "root/bundles/tiny/previous").exists()
    assert store.previous("tiny") == final.with_name("0" * 64)
