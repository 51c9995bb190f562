"""A phone whose own Python has NumPy and an engine, as Termux's packages bring them: only our runtime goes there."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeferry_devices import wheelhouse
from edgeferry_devices.installation import plan
from edgeferry_devices.platforms import Platform, ask
from edgeferry_devices.purging import purge
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.setting_up import set_up
from edgeferry_runtime.bundle import Bundle

ANDROID = """\
import os, sys
sys.getandroidapilevel = lambda: 34
def confstr(name):
    raise ValueError(name)
os.confstr = confstr
"""


def install_python(prefix: Path) -> Path:
    """Make a Python of its own below a prefix: the real one, which says that it is Android's, and has no ensurepip."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    packages = prefix / "lib" / stdlib.name / "site-packages"
    packages.mkdir(parents=True)
    for path in stdlib.iterdir():
        if path.name not in ("site-packages", "ensurepip"):
            (packages.parent / path.name).symlink_to(path)
    (prefix / "bin").mkdir()
    python = prefix / "bin" / "python3"
    python.write_bytes(Path(sys.executable).resolve().read_bytes())
    python.chmod(0o755)
    for module in ("numpy", "onnxruntime", "flatbuffers", "google", "packaging"):
        folder = Path(str(importlib.import_module(module).__path__[0]))
        (packages / folder.name).symlink_to(folder)
        for info in folder.parent.glob(f"{module}-*.dist-info"):
            (packages / info.name).symlink_to(info)
        if (libs := folder.parent / f"{module}.libs").is_dir():
            (packages / libs.name).symlink_to(libs)
    (packages / "sitecustomize.py").write_text(ANDROID)
    return python


@pytest.fixture
def phone(tmp_path: Path, start_server: Callable, missing: Callable[[str], None]) -> Iterator[RemoteDevice]:
    python = install_python(tmp_path / "usr")
    if subprocess.run([python, "-I", "-c", "import numpy, onnxruntime"], capture_output=True, check=False).returncode:
        missing("this Python does not run from another prefix")
    server = start_server(f"{python.parent}:/usr/bin:/bin")
    server.trust()
    device = RemoteDevice(server.entry("~/edgeferry"))
    yield device
    device.close()


def test_it_is_seen(phone: RemoteDevice, tmp_path: Path) -> None:
    found = ask(phone, ["python3"])[0]
    assert (found.system, found.libc, found.venv) == ("android", "", True)
    assert set(plan(found).present) == {"onnx"}
    assert Path(found.python) == tmp_path / "usr/bin/python3"


@pytest.mark.slow
def test_only_the_runtime_goes_there(phone: RemoteDevice, bundle: Bundle, tmp_path: Path) -> None:
    home, packages = tmp_path / "server0", next((tmp_path / "usr/lib").glob("*/site-packages"))
    before = sorted(home.rglob("*")), sorted(packages.iterdir())
    done = set_up(phone)
    assert [(found.format, found.verdict) for found in done.formats] == [("onnx", "works"), ("tflite", "unavailable")]
    assert done.bytes_sent < 5_000_000
    assert "Android's C library" in done.formats[1].reason
    mine = next(Path(done.root).glob("venv/lib/*/site-packages"))
    assert {path.name.partition("-")[0] for path in mine.iterdir()} == {"click", "edgeferry", "edgeferry_runtime"}
    assert push(bundle, phone).figures[0]["max_abs"] < 1e-5
    assert set_up(phone, ["onnx"]).up_to_date
    assert purge(phone).removed
    assert (sorted(home.rglob("*")), sorted(packages.iterdir())) == before


def test_its_wheels_are_pure() -> None:
    termux = Platform("/p", (3, 12, 7), "android", 64, "aarch64", "", True, "2.2.4", {"onnxruntime": "1.22.0"})
    assert plan(termux).key == "cp312-android-aarch64"
    assert wheelhouse.folder_of(plan(termux)).name == plan(termux).key
    assert plan(replace(termux, engines={})).formats == ()
    assert sys.version_info >= (3, 10)
