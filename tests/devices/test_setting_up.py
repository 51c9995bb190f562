"""Setting devices up: what is there is tried again, what is broken installed anew, what cannot be said so."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import inventory
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.setting_up import Readiness, set_up
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceRequirementError, MissingExtraError, UnknownNameError

Ferry = Callable[..., tuple[int, str, str]]


def test_what_is_there_is_tried_again_and_nothing_is_sent(place: Any) -> None:
    said: list[str] = []
    done = set_up(place.device, say=said.append)
    assert (done.up_to_date, done.bytes_sent, said, done.serves) == (True, 0, [], True)
    assert set_up(place.device, ["onnx"], serve=True).up_to_date
    assert {found.format: found.verdict for found in done.formats} == {"onnx": "works", "tflite": "works"}
    assert all(found.engine.split()[1][0].isdigit() for found in done.formats)
    assert done.python == ".".join(map(str, sys.version_info[:3]))
    assert Path(done.root) == place.root
    assert [found.format for found in set_up(place.device, ["onnx"]).formats] == ["onnx"]


def test_unknown_format(place: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"--format: unknown name 'tflit'; did you mean 'tflite'"):
        set_up(place.device, ["tflit"])


def test_the_command_reports(ferry: Ferry, place: Any) -> None:
    code, out, err = ferry("device", "setup", place.name)
    assert (code, err) == (0, "")
    assert out.startswith(f"{place.name}: Python 3.")
    assert out.endswith("up to date\n")
    told = json.loads(ferry("device", "setup", place.name, "--format", "onnx", "--offline", "--json")[1])
    assert (told["schema"], told["ready"], told["up_to_date"], told["bytes_sent"]) == (1, True, True, 0)
    assert [found["format"] for found in told["formats"]] == ["onnx"]
    assert ferry("device", "setup", "nobody")[0] == 2
    assert ferry("device", "setup", place.name, "--format", "x")[0] == 2


def test_an_engine_that_dies_is_named(ferry: Ferry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the child of the trial dies of SIGILL, as LiteRT does on processors that lack its instructions."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("import os; os.kill(os.getpid(), 4)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = set_up(LocalDevice(), ["onnx", "tflite"])
    assert [found.verdict for found in done.formats] == ["fails", "works"]
    assert "this CPU lacks instructions that the engine was built with" in done.failed[0].reason
    code, out, err = ferry("device", "setup", "local")
    assert code == 4
    assert "this CPU lacks instructions" in out
    assert "the engine for onnx does not work" in err.splitlines()[-1]


def test_an_engine_that_is_not_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tflite": ("litert", ("nothing",)), "onnx": ("onnx", ("os",)), "serve": ("serve", ("nothing",))}
    monkeypatch.setattr("edgeferry_devices.local.ENGINES", there)
    done = set_up(LocalDevice(), ["tflite"])
    reason, fix = "needs nothing, which is not installed", "run: pip install 'edgeferry[litert]'"
    assert done.formats == (Readiness("tflite", "unavailable", "", reason, fix),)
    assert done.failed == []
    assert not done.serves
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeferry\[serve\]'"):
        set_up(LocalDevice(), serve=True)


def test_what_the_doctor_refuses_stops_it(ferry: Ferry, start_server: Callable, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/date").write_text("#!/bin/sh\necho 86400\n")
    (tmp_path / "bin/date").chmod(0o755)
    server = start_server(f"{tmp_path / 'bin'}:{Path(sys.executable).resolve().parent}:/usr/bin:/bin")
    server.trust()
    inventory.add(server.entry(tmp_path / "bare"))
    code, out, err = ferry("device", "setup", "pi")
    assert (code, out) == (4, "")
    assert "years behind: certificates, dates of releases and archives would be wrong; set it: sudo date" in err
    assert not (tmp_path / "bare").exists()


@pytest.fixture
def bare(openssh: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteDevice]:
    """A device with nothing of ours, over OpenSSH's server."""
    openssh.trust()
    entry = openssh.entry(tmp_path_factory.mktemp("bare") / "made for us" / "root of it's own")
    inventory.add(entry)
    device = RemoteDevice(entry)
    yield device
    device.close()


def test_offline_without_a_cache_says_what_to_fetch(bare: RemoteDevice) -> None:
    with pytest.raises(DeviceRequirementError, match=r"lacks numpy>=1\.24, .*pip>=24, onnxruntime.* pip download "):
        set_up(bare, ["onnx"], offline=True)
    assert not Path(bare.entry.root).exists()


def content(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            digest.update(f"{path} {path.lstat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


@pytest.mark.slow
def test_from_nothing_and_back(bare: RemoteDevice, bundle: Bundle, ferry: Ferry) -> None:
    """Downloads real wheels, repairs what broke, and leaves neither a file nor a trace in the system's Python."""
    root, home = Path(bare.entry.root), Path(bare.exec(["sh", "-c", "echo $HOME"]).stdout.decode().strip())
    system = Path(sys.executable).resolve().parents[1]
    before = content(system / "lib"), sorted(home.rglob("*")), sorted(root.parent.parent.iterdir())
    said: list[str] = []
    first = set_up(bare, ["onnx"], say=said.append)
    assert not first.up_to_date
    assert first.bytes_sent > 20_000_000
    assert [found.verdict for found in first.formats] == ["works"]
    assert set_up(bare, ["onnx"], offline=True).up_to_date

    package = next(root.glob("venv/lib/python3*/site-packages/onnxruntime/__init__.py"))
    package.write_text("import nothing")
    said.clear()
    again = set_up(bare, ["onnx"], offline=True, say=said.append)
    assert "pi: what is installed does not work: installing it anew" in said
    assert [found.verdict for found in again.formats] == ["works"]

    next(root.glob("venv/lib/python3*/site-packages/edgeferry_runtime/agent.py")).unlink()
    assert [found.verdict for found in set_up(bare, ["onnx"], offline=True).formats] == ["works"]
    assert push(bundle, bare).figures[0]["max_abs"] < 1e-5

    code, out, _ = ferry("device", "remove", "pi", "--purge")
    assert code == 0
    assert out.startswith(f"pi: removed {root}, ")
    assert (content(system / "lib"), sorted(home.rglob("*")), sorted(root.parent.parent.iterdir())) == before
    assert inventory.read() == {}
