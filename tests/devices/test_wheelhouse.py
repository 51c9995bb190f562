"""Wheels for devices: resolved and downloaded by the real pip, kept with the hashes that the index promised."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgeferry_devices import hostpip, lockfile, wheelhouse
from edgeferry_devices.installation import Installation, plan
from edgeferry_devices.knowing.wheels_known import Wheels
from edgeferry_devices.lockfile import Lock, Pin
from edgeferry_devices.platforms import Platform
from edgeferry_runtime.errors import DeviceRequirementError

PI = Platform("/usr/bin/python3", (3, 11, 2), "linux", 64, "aarch64", "glibc 2.36", True)
PLAN = plan(PI)
TINY = {name: Wheels(name, name, f"{name}>=1", (10, 14), {64: ("aarch64",)}) for name in ("tflite", "onnx")}
SMALL = Installation(PI, ("base-thing>=1",), TINY)
"""A platform whose engines are tiny wheels."""


def write_wheel(folder: Path, name: str, requires: str = "", content: str = "") -> Path:
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    lines = [f"Requires-Dist: {requires}\n"] if requires else []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{''.join(lines)}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", content)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder: pages that promise a SHA-256, as every index does."""
    files = tmp_path / "files"
    files.mkdir()
    for name, requires in {"base-thing": "", "tflite": "both", "onnx": "both", "both": ""}.items():
        wheel = write_wheel(files, name, requires)
        promise(tmp_path, name, wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {(tmp_path / 'simple').as_uri()}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path


def promise(index: Path, name: str, wheel: Path, digest: str) -> None:
    page = index / "simple" / name / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f'<a href="{wheel.as_uri()}#sha256={digest}">{wheel.name}</a>')


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package index whose address holds a password, and where nothing answers."""
    config = tmp_path / "nowhere.conf"
    config.write_text("[global]\nindex-url = http://bob:s3cret@127.0.0.1:1/simple\nretries = 0\ntimeout = 1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)


def names(wheels: list[wheelhouse.Wheel]) -> list[str]:
    return [wheel.path.name.split("-")[0] for wheel in wheels]


@pytest.mark.usefixtures("index")
def test_resolved_once_and_kept_with_its_hashes(request: pytest.FixtureRequest) -> None:
    found = wheelhouse.collect("pi", SMALL, ["onnx", "tflite"])
    assert names(found) == ["base_thing", "both", "onnx", "tflite", "edgeferry"]
    lock = lockfile.find(wheelhouse.folder_of(SMALL), SMALL.requirements(["tflite"]))
    assert lock is not None
    assert {pin.file: pin.sha256 for pin in lock.pins} == {w.path.name: w.sha256 for w in found[:-1]}
    assert lock.pins[0].version == "1.0"
    request.getfixturevalue("no_network")
    assert wheelhouse.collect("pi", SMALL, ["onnx", "tflite"]) == found
    assert names(wheelhouse.collect("pi", SMALL, ["onnx"], offline=True)) == ["base_thing", "both", "onnx", "edgeferry"]


@pytest.mark.usefixtures("index")
def test_a_wheel_that_changed_is_fetched_anew_and_never_used() -> None:
    said: list[str] = []
    found = wheelhouse.collect("pi", SMALL, ["onnx"])
    whole = found[0].path.read_bytes()
    found[0].path.write_bytes(b"something else")
    with pytest.raises(DeviceRequirementError, match=r"lacks base-thing==1\.0, and nothing is fetched offline"):
        wheelhouse.collect("pi", SMALL, ["onnx"], offline=True, say=said.append)
    assert wheelhouse.collect("pi", SMALL, ["onnx"], say=said.append) == found
    assert found[0].path.read_bytes() == whole
    assert (
        said == ["pi: base_thing-1.0-py3-none-any.whl in the cache is not what the index promised, and is not used"] * 2
    )


def test_a_wheel_that_is_not_what_the_index_promises_is_refused(index: Path) -> None:
    wheel = write_wheel(index / "files", "both", content="changed after it was published")
    before = wheelhouse.folder_of(SMALL)
    with pytest.raises(DeviceRequirementError, match="is not what the index promised: its SHA-256 differs; do not"):
        wheelhouse.collect("pi", SMALL, ["onnx"])
    assert not list(before.glob("*.whl"))
    assert not list(before.glob(".download.*"))
    promise(index, "both", wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert names(wheelhouse.collect("pi", SMALL, ["onnx"]))[:3] == ["base_thing", "both", "onnx"]


@pytest.mark.usefixtures("no_network")
def test_offline_says_what_is_missing_and_how_to_fetch_it() -> None:
    with pytest.raises(DeviceRequirementError) as caught:
        wheelhouse.collect("pi", PLAN, ["tflite"], offline=True)
    folder = wheelhouse.folder_of(PLAN)
    assert caught.value.reason == (
        f"{folder} lacks numpy>=1.24, click>=8.1, pip>=24, ai-edge-litert>=2.1, and nothing is fetched offline"
    )
    assert caught.value.fix.startswith("on a machine with a network: python3 -m pip download --only-binary=:all: ")
    assert "--python-version 3.11 --platform manylinux_2_36_aarch64 " in caught.value.fix
    assert f"--dest {folder.name} 'numpy>=1.24' 'click>=8.1'" in caught.value.fix


def test_offline_takes_wheels_that_were_brought_by_hand(index: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("no_network")
    folder = wheelhouse.folder_of(SMALL)
    shutil.copytree(index / "files", folder)
    found = wheelhouse.collect("pi", SMALL, ["onnx"], offline=True)
    assert names(found) == ["base_thing", "both", "onnx", "edgeferry"]
    (folder / "both-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DeviceRequirementError, match=r"lacks both==1\.0"):
        wheelhouse.collect("pi", SMALL, ["onnx"], offline=True)


@pytest.mark.usefixtures("no_network")
def test_an_index_out_of_reach_is_said_without_its_password() -> None:
    with pytest.raises(DeviceRequirementError, match=r"pi: .*check this machine's access") as caught:
        hostpip.resolve("pi", PLAN, ["no-such-package-of-ours"])
    assert "s3cret" not in str(caught.value)
    assert "http" not in str(caught.value)
    with pytest.raises(DeviceRequirementError):
        wheelhouse.collect("pi", PLAN, ["tflite"])
    assert list(wheelhouse.folder_of(PLAN).iterdir()) == []


def test_settings_of_the_user_do_not_make_it_install_elsewhere(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    assert index.is_dir()
    assert names(wheelhouse.collect("pi", SMALL, []))[0] == "base_thing"


def test_urls_are_hidden() -> None:
    text = "Looking in indexes: https://bob:s3cret@index.example/simple, git+ssh://t0ken@host/x\nok"
    assert hostpip.redact(text) == "Looking in indexes: (URL), (URL)\nok"


GOOD = {"name": "a", "version": "1", "file": "a-1-py3-none-any.whl", "sha256": "0" * 64}


@pytest.mark.parametrize("wrong", [{"file": "../a-1.whl"}, {"file": "/etc/a.whl"}, {"file": "a"}, {"sha256": "00"}])
def test_a_pin_cannot_name_anything_else(wrong: dict) -> None:
    with pytest.raises(ValueError, match="is no"):
        Pin(**{**GOOD, **wrong})


def test_closure_follows_every_spelling() -> None:
    a, b, c = (
        replace(Pin(**GOOD), name=name, needs=needs) for name, needs in (("A_x", ("b-y",)), ("B.y", ()), ("c", ()))
    )
    lock = Lock(("a-x>=1", "c"), (a, b, c))
    assert lock.closure(["a.X[extra]>=2; python_version > '3'"]) == [a, b]
    assert lock.closure([]) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pins": [{"name": 1}]}', '{"requirements": []}'])
def test_a_damaged_lock_does_not_count(text: str, tmp_path: Path) -> None:
    (tmp_path / f"x{lockfile.ENDING}").write_text(text)
    assert lockfile.find(tmp_path, []) is None


def test_the_narrowest_lock_is_taken(tmp_path: Path) -> None:
    pin = Pin(**GOOD)
    for digit, wanted in enumerate([("a", "b", "c"), ("a", "b"), ("c",)]):
        Lock(wanted, (pin,)).write(tmp_path / f"{digit}{lockfile.ENDING}")
    found = lockfile.find(tmp_path, ["a"])
    assert found == Lock(("a", "b"), (pin,))
    assert lockfile.find(tmp_path, ["a", "z"]) is None


@pytest.mark.slow
def test_wheels_for_a_raspberry_pi_5(request: pytest.FixtureRequest) -> None:
    """From the real index; they come from the cache the second time."""
    wheels = wheelhouse.collect("pi", PLAN, ["tflite", "onnx"])
    found = [wheel.path.name for wheel in wheels]
    assert any(n.startswith("numpy-") and "cp311" in n and "aarch64" in n for n in found)
    assert any(n.startswith("ai_edge_litert-") and "aarch64" in n for n in found)
    assert any(n.startswith("onnxruntime-") and "aarch64" in n for n in found)
    assert any(n.startswith("pip-") for n in found)
    request.getfixturevalue("no_network")
    assert wheelhouse.collect("pi", PLAN, ["tflite", "onnx"], offline=True) == wheels


@pytest.mark.slow
def test_wheels_for_a_32_bit_raspberry_pi() -> None:
    planned = plan(replace(PI, bits=32, numpy="1.24.2"))
    found = [wheel.path.name for wheel in wheelhouse.collect("pi", planned, ["tflite"])]
    assert sorted(name.split("-")[0] for name in found) == ["click", "edgeferry", "pip", "tflite_runtime"]
    assert any(name.endswith("cp311-cp311-manylinux_2_34_armv7l.whl") for name in found)


@pytest.mark.slow
def test_what_is_told_to_fetch_by_hand_works(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The command of the message, run elsewhere, fills the cache."""
    planned = plan(replace(PI, bits=32, numpy="1.24.2"))
    line = hostpip.by_hand(planned, planned.requirements(["tflite"]), wheelhouse.folder_of(planned))
    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, check=True, capture_output=True)
    shutil.copytree(tmp_path / planned.key, wheelhouse.folder_of(planned))
    request.getfixturevalue("no_network")
    assert "tflite_runtime" in names(wheelhouse.collect("pi", planned, ["tflite"], offline=True))


def test_many_devices_at_once_fetch_once_and_read_whole_wheels(index: Path) -> None:
    said: list[str] = []
    found: list[list[wheelhouse.Wheel]] = []
    threads = [
        threading.Thread(target=lambda: found.append(wheelhouse.collect("pi", SMALL, ["onnx"], say=said.append)))
        for _ in range(12)
    ]
    torn: list[str] = []

    def read() -> None:
        while any(thread.is_alive() for thread in threads):
            for path in (wheelhouse.cache_dir() / "wheels" / "runtime").glob("*.whl"):
                if not zipfile.is_zipfile(path):
                    torn.append(path.name)

    for thread in threads:
        thread.start()
    read()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(wheels == found[0] for wheels in found)
    assert all(hashlib.sha256(wheel.path.read_bytes()).hexdigest() == wheel.sha256 for wheel in found[0])
    assert (torn, said) == ([], [])
    assert not list((wheelhouse.cache_dir() / "wheels").rglob(".edgeferry*"))
