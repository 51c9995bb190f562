"""Bringing the runtime to devices that have only Python, and saying what is wrong with those that cannot take it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import bootstrap, inventory, platforms, provision, wheelhouse
from edgeferry_devices.device import silent
from edgeferry_devices.installation import choose
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.provision import Place, Policy, Stamp, complete
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
    found = {"python": "/p", "version": [3, 11, 2], "system": "linux", "bits": 64, "machine": "aarch64", "venv": True}
    more = {"libc": "glibc 2.36", "page_size": 4096, "numpy": None, "engines": {}, "imports": {}}
    return f"echo '{json.dumps({'edgeferry': {**found, **more, **facts}})}'"


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
        ({"bits": 32}, "NumPy is missing, and has no wheels for this system; install it there .Debian: sudo apt"),
        ({"bits": 32, "numpy": "2.2.4"}, "NumPy 2.2.4 is installed, and tflite-runtime needs NumPy 1"),
        ({"bits": 32, "numpy": "1.21.5"}, "NumPy 1.21.5 is installed, and 1.24 is the oldest that works"),
        ({"bits": 32, "numpy": "1.26.4"}, "ONNX bundles will not run: ONNX Runtime is not there for 32-bit armv7l"),
        (
            {"bits": 32, "version": [3, 13, 5]},
            "tflite-runtime needs Python 3.10 to 3.11; .* with Python 3.10 or 3.11",
        ),
        ({"libc": ""}, "bundles will not run: there are no wheels for a C library other than glibc"),
        ({"libc": "", "system": "android"}, "no wheels for Android's C library; type in Termux: pkg install proot-dis"),
        ({"system": "darwin", "libc": ""}, "there are no engines for darwin"),
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
    assert choose("pi", platforms.ask(device)).platform.python == "/new"


@pytest.fixture
def wheels(tmp_path: Path) -> list[Wheel]:
    """One wheel to bring."""
    path = build_runtime_wheel(tmp_path)
    return [Wheel(path, sha256_file(path))]


def prepare(device: Any, root: Path, wheels: list[Wheel]) -> dict[str, Any]:
    request = {"op": "prepare", "root": str(root), "wheels": provision._described(wheels)}
    return provision.call(device, sys.executable, request, 60)


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
        provision.call(LocalDevice(), sys.executable, request, 60)
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
        provision.call(LocalDevice(), sys.executable, request, 60)


def test_an_installation_that_fails_is_begun_anew_and_with_the_server(tmp_path: Path) -> None:
    root, no_pip = tmp_path / "root", b"not a wheel"
    digest = hashlib.sha256(no_pip).hexdigest()
    wheels = {digest: {"name": "pip-1-py3-none-any.whl", "size": len(no_pip), "unpacked": 0}}
    incoming = bootstrap.prepare({"root": str(root), "wheels": wheels})["incoming"]
    Path(incoming, f"{digest}.part").write_bytes(no_pip)
    stamp = {"runtime": runtime_version(), "formats": ["onnx", "serve"], "wheels": {"a": "b"}, "environment": ""}
    for fresh in (True, False):
        with pytest.raises(bootstrap.RefusalError, match="pip could not install"):
            bootstrap.install({"root": str(root), "wheels": wheels, "stamp": stamp, "fresh": fresh})
        left = provision.look(LocalDevice(), str(root)).stamp
        assert left == Stamp("", ("onnx", "serve"))
        assert not left.has(["serve"])


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


@pytest.mark.parametrize("policy", [Policy(), Policy(fresh=True)])
def test_what_has_the_server_keeps_it(policy: Policy, pi: RemoteDevice, root: Path, monkeypatch: Any) -> None:
    wanted: list[str] = []

    def collect(device: str, planned: Any, formats: list[str], *_: Any) -> list[Wheel]:
        wanted.extend(formats)
        raise DeviceRequirementError(device, "is full", "free some space")

    monkeypatch.setattr(wheelhouse, "collect", collect)
    there = Place(str(root), Stamp("an older one", ("onnx", "serve"), {}, "python 3.0"))
    with pytest.raises(DeviceRequirementError, match="is full"):
        complete(pi, there, ["tflite"], print, policy)
    assert wanted == ["serve", "tflite"]
