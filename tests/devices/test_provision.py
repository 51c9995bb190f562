"""Bringing the runtime to devices that have only Python, and saying what is wrong with those that cannot take it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import bootstrap, inventory, platforms, provision
from edgeferry_devices.device import silent
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.wheel import build_runtime_wheel, runtime_version
from edgeferry_devices.wheelhouse import Wheel
from edgeferry_runtime import store
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceRequirementError

PYTHON_DIR = Path(sys.executable).resolve().parent


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with a shell and cat, and nothing else."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("sh", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def says(**facts: Any) -> str:
    """A python3 that says what it is and can do nothing else."""
    found = {"python": "/p", "version": [3, 11, 2], "system": "linux", "bits": 64, "machine": "aarch64"}
    return f"echo '{json.dumps({'edgeferry': {**found, 'libc': 'glibc 2.36', 'venv': True, **facts}})}'"


@pytest.fixture
def reach(start_server: Callable) -> Iterator[Callable[..., RemoteDevice]]:
    """Open a device whose PATH is given."""
    opened: list[RemoteDevice] = []

    def open_device(path: Path | str, root: Path | str) -> RemoteDevice:
        server = start_server(str(path))
        server.trust()
        opened.append(RemoteDevice(server.entry(root)))
        return opened[-1]

    yield open_device
    for device in opened:
        device.close()


def test_no_shell(reach: Callable, tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(DeviceRequirementError, match=r"pi: cannot run sh \(.*not found"):
        push(bundle, reach("/nonexistent", tmp_path / "device"))


def test_no_python(reach: Callable, tools: Path, tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(DeviceRequirementError, match=r"pi: has no Python 3; install Python 3.10") as caught:
        push(bundle, reach(tools, tmp_path / "device"))
    assert caught.value.exit_code == 4
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version": [3, 8, 18]}, r"has Python 3\.8\.18, and 3\.10 is the oldest"),
        ({"bits": 32}, "32-bit userland"),
        ({"libc": ""}, "another C library than glibc"),
        ({"system": "darwin"}, "has darwin"),
        ({"venv": False}, "python3-venv"),
    ],
)
def test_unfit_python(facts: dict, reason: str, reach: Callable, tools: Path, tmp_path: Path, bundle: Bundle) -> None:
    script(tools / "python3", says(**facts))
    with pytest.raises(DeviceRequirementError, match=reason):
        push(bundle, reach(tools, tmp_path / "device"))
    assert not (tmp_path / "device").exists()


def test_newer_python_is_found_beside_an_old_one(tools: Path, reach: Callable, tmp_path: Path) -> None:
    script(tools / "python3", f"echo 'Welcome to your shell'; {says(version=[3, 8, 1])}")
    script(tools / "python3.12", says(version=[3, 12, 1], python="/new"))
    device = reach(tools, tmp_path / "device")
    assert platforms.choose("pi", platforms.ask(device)).python == "/new"


def test_tags_reach_from_the_devices_glibc_downwards() -> None:
    platform = platforms.Platform("/p", (3, 11, 2), "linux", 64, "aarch64", "glibc 2.19", True)
    assert platform.tags() == [
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
        "linux_aarch64",
    ]


@pytest.fixture
def wheels(tmp_path: Path) -> list[Wheel]:
    """One wheel to bring."""
    path = build_runtime_wheel(tmp_path)
    return [Wheel(path, sha256_file(path))]


def prepare(device: Any, root: Path, wheels: list[Wheel]) -> dict[str, Any]:
    request = {"op": "prepare", "root": str(root), "wheels": provision._described(wheels)}
    return provision._call(device, sys.executable, request, 60)


@pytest.fixture
def small_disk(tmp_path: Path, missing: Callable) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_no_space(small_disk: Path, wheels: list[Wheel]) -> None:
    with pytest.raises(DeviceRequirementError, match=r"has 2 MB free, and \d+ MB are needed"):
        prepare(LocalDevice(), small_disk / "root", wheels)


def test_no_space_for_a_bundle(small_disk: Path, make_bundle: Callable) -> None:
    with pytest.raises(DeviceRequirementError, match=r"has 2\.\d MB free, and 4\.\d MB are needed"):
        push(make_bundle(padding=3_000_000), LocalDevice(small_disk / "root"))
    assert list((small_disk / "root/store/incoming").iterdir()) == []


def test_read_only_home(small_disk: Path, wheels: list[Wheel], bundle: Bundle) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DeviceRequirementError, match=r"cannot be written .Read-only file system"):
        prepare(LocalDevice(), small_disk / "root", wheels)
    with pytest.raises(DeviceRequirementError, match=r"cannot be written .Read-only file system"):
        push(bundle, LocalDevice(small_disk / "root"))


def test_root_below_a_file(tmp_path: Path, wheels: list[Wheel], bundle: Bundle) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceRequirementError, match=r"cannot be written .Not a directory"):
        prepare(LocalDevice(), tmp_path / "file" / "root", wheels)
    with pytest.raises(DeviceRequirementError, match=r"cannot be written .Not a directory"):
        push(bundle, LocalDevice(tmp_path / "file" / "root"))


def test_foreign_files_are_left_alone(tmp_path: Path, wheels: list[Wheel]) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DeviceRequirementError, match="not ours"):
        prepare(LocalDevice(), tmp_path, wheels)
    assert not (tmp_path / "wheels").exists()


def test_wheel_damaged_on_the_way(tmp_path: Path, wheels: list[Wheel]) -> None:
    root = tmp_path / "root"
    plan = prepare(LocalDevice(), root, wheels)
    part = Path(plan["incoming"]) / f"{wheels[0].sha256}.part"
    part.write_bytes(b"something else")
    request = {"op": "install", "root": str(root), "wheels": provision._described(wheels), "stamp": {}}
    with pytest.raises(DeviceRequirementError, match="SHA-256 differs"):
        provision._call(LocalDevice(), sys.executable, request, 60)
    assert not (root / "venv").exists()


def test_nothing_is_installed_into_another_environment(tmp_path: Path, wheels: list[Wheel]) -> None:
    root = tmp_path / "root"
    plan = prepare(LocalDevice(), root, wheels)
    shutil.copy(wheels[0].path, Path(plan["incoming"]) / f"{wheels[0].sha256}.part")
    (root / "venv/bin").mkdir(parents=True)
    (root / "venv/edgeferry.json").write_text("{}")
    script(root / "venv/bin/python", f'exec {sys.executable} "$@"')
    request = {"op": "install", "root": str(root), "wheels": provision._described(wheels), "stamp": {}}
    with pytest.raises(DeviceRequirementError, match="not a working environment of ours"):
        provision._call(LocalDevice(), sys.executable, request, 60)


def test_wheels_of_an_interrupted_installation_are_not_sent_again(tmp_path: Path, wheels: list[Wheel]) -> None:
    root = tmp_path / "root"
    prepare(LocalDevice(), root, wheels)
    kept = bootstrap.place(root, wheels[0].sha256, wheels[0].path.name)
    kept.parent.mkdir(parents=True)
    shutil.copy(wheels[0].path, kept)
    assert prepare(LocalDevice(), root, wheels)["missing"] == []


def test_two_installations_do_not_meet(tmp_path: Path, wheels: list[Wheel]) -> None:
    folder = store.Store.open(tmp_path / "root")
    with folder.lock("ann", 0), pytest.raises(DeviceRequirementError, match="in use"):
        prepare(LocalDevice(), tmp_path / "root", wheels)


def test_both_sides_use_one_marker() -> None:
    assert bootstrap.MARKER == store.MARKER


def test_stamp_says_that_all_is_there(pi: RemoteDevice, root: Path) -> None:
    said: list[str] = []
    place = provision.ensure(pi, str(root), ["onnx"], said.append)
    assert place.root == str(root)
    assert said == []


def test_tilde_is_the_home_of_the_account(server: Any) -> None:
    device = RemoteDevice(server.entry("~/a b/c"))
    try:
        assert provision.look(device, "~/a b/c") == provision.Place(f"{server.home}/a b/c", provision.Stamp())
    finally:
        device.close()


@pytest.mark.slow
def test_from_nothing_to_a_pushed_bundle(
    openssh: Any, tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloads real wheels, installs them over OpenSSH's server, and pushes."""
    openssh.trust()
    root = tmp_path_factory.mktemp("bare") / "root of it's own"
    inventory.add(openssh.entry(root))
    device = RemoteDevice(openssh.entry(root))
    said: list[str] = []
    try:
        result = push(bundle, device, said.append)
        assert result.figures[0]["max_abs"] < 1e-5
        assert any("installing the runtime and ONNX Runtime" in line for line in said)
        listed = device.exec([f"{root}/venv/bin/python", "-c", "import edgeferry_runtime as e; print(e.__file__)"])
        assert listed.stdout.decode().startswith(str(root))
        assert not (root / "wheels").exists()

        said.clear()
        assert push(bundle, device, said.append).up_to_date
        assert not any("install" in line for line in said)

        stamp = root / "venv" / "edgeferry.json"
        stamp.write_text(stamp.read_text().replace(runtime_version(), "0.0.1"))
        said.clear()
        provision.ensure(device, str(root), [], silent)
        assert push(bundle, device, said.append).up_to_date

        provision.ensure(device, str(root), ["tflite"], said.append)
        assert any("installing LiteRT for" in line for line in said)
        with device.open_agent(["tflite"]) as agent:
            assert {"ai_edge_litert", "onnxruntime"} <= set(agent.ask("hello")["machine"]["engines"])
    finally:
        device.close()
