"""A service under a real systemd of the account: the unit is ours alone, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeferry_devices.commands.server_options import read_server
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.purging import purge
from edgeferry_devices.pushing import push
from edgeferry_devices.servicing import remove_service, service_status, start_service
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.device_service import systemd
from edgeferry_runtime.device_service.config import Server
from edgeferry_runtime.device_service.systemd import Systemd
from edgeferry_runtime.device_service.unit import NAME, mark, unit_text
from edgeferry_runtime.errors import DeviceRequirementError, EdgeferryError


@pytest.fixture(scope="module")
def account(
    tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None], start_systemd: Callable
) -> Iterator[tuple[Path, Path]]:
    """An account with a systemd: its home, and what ``XDG_RUNTIME_DIR`` is."""
    home = tmp_path_factory.mktemp("account")
    with start_systemd(home) as runtime:
        yield home, runtime


@pytest.fixture
def device(account: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalDevice]:
    """This machine, with a folder whose name is hard to quote; its service ends with the test."""
    home, runtime = account
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    device = LocalDevice(home / """of 100% "$HOME" \\ it's""")
    yield device
    remove_service(device)
    purge(device)


def on(port: int) -> Server:
    found = read_server(f"--port {port} --grpc-port 0 --no-management")
    assert found is not None
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def shown(*what: str) -> dict[str, str]:
    """What systemd tells of our unit."""
    argv = ["systemctl", "--user", "show", NAME, *(f"--property={name}" for name in what)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return dict(line.partition("=")[::2] for line in told.splitlines())


def everything(home: Path) -> list[Path]:
    """All but what the host keeps for itself."""
    return sorted(path for path in home.rglob("*") if ".local" not in path.parts)


def test_from_nothing_to_a_server_that_hangs_and_back(
    device: LocalDevice, account: tuple[Path, Path], make_bundle: Callable[..., Bundle]
) -> None:
    before, port = everything(account[0]), free_port()
    push(make_bundle(), device)
    hasty = account[1] / "systemd" / "user" / f"{NAME}.d"
    hasty.mkdir(parents=True)
    (hasty / "soon.conf").write_text("[Service]\nWatchdogSec=10\n")
    told = start_service(device, on(port))
    assert (told["way"], told["running"], told["ready"]) == ("systemd", True, True)
    assert "enable-linger" in told["notes"][0]
    found = shown("ActiveState", "MainPID", "WatchdogUSec", "UnitFileState", "FragmentPath", "UMask", "NotifyAccess")
    assert found == {
        "ActiveState": "active",
        "MainPID": str(told["pid"]),
        "WatchdogUSec": "10s",
        "UnitFileState": "enabled",
        "FragmentPath": str(Systemd(device.root).unit),
        "UMask": "0077",
        "NotifyAccess": "main",
    }
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/tiny", timeout=30) as answer:
        assert json.load(answer)["versions"] == ["1"]
    assert not start_service(device)["changed"]
    os.kill(told["pid"], signal.SIGSTOP)
    until(lambda: int(shown("NRestarts")["NRestarts"]) >= 1)
    until(lambda: service_status(device)["ready"])
    assert service_status(device)["pid"] != told["pid"]
    purge(device)
    shutil.rmtree(hasty)
    assert everything(account[0]) == before
    assert shown("LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}


def test_what_does_not_come_up_leaves_what_was(
    device: LocalDevice, account: tuple[Path, Path], bundle: Bundle, program: Callable
) -> None:
    push(bundle, device)
    asked = program("loginctl")
    before = everything(account[0])
    with pytest.raises(EdgeferryError, match="did not come up: systemd says exit-code"):
        start_service(device, Server(("--nonsense",)))
    assert everything(account[0]) == before
    assert asked() == ["--no-ask-password enable-linger", "--no-ask-password disable-linger"]
    port = free_port()
    start_service(device, on(port))
    text = Systemd(device.root).unit.read_text()
    with pytest.raises(EdgeferryError, match="did not come up: systemd says exit-code"):
        start_service(device, Server(("--nonsense",)))
    assert Systemd(device.root).unit.read_text() == text
    assert service_status(device)["ready"]


def test_a_unit_that_is_not_ours_stays(device: LocalDevice, account: tuple[Path, Path], bundle: Bundle) -> None:
    push(bundle, device)
    unit = Systemd(device.root).unit
    unit.parent.mkdir(parents=True)
    for text, reason in (
        ("[Service]\nExecStart=true\n", "is not ours"),
        (f"{mark(Path('/a'))}\n", "serves /a: an acc"),
    ):
        unit.write_text(text)
        with pytest.raises(DeviceRequirementError, match=reason):
            start_service(device)
        assert not service_status(device)["installed"]
        assert unit.read_text() == text
    shutil.rmtree(account[0] / ".config")
    (account[0] / ".config").touch()
    with pytest.raises(DeviceRequirementError, match=r"service on local: cannot be written \(Not a directory"):
        start_service(device)
    (account[0] / ".config").unlink()


def test_a_unit_that_systemd_takes_from_elsewhere_is_said(
    device: LocalDevice, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(bundle, device)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(EdgeferryError, match=r"systemctl --user start failed \(.*edgeferry.service not found"):
        start_service(device)
    assert not service_status(device)["installed"]
    assert list(tmp_path.rglob(NAME)) == []


def test_every_word_reaches_the_program_as_it_is(device: LocalDevice, account: tuple[Path, Path]) -> None:
    words = ["a b", "100%", "%h", "$HOME", "${HOME}", '"', "'", "\\", "\\n", "\n", "\t", "", "é", ";", "-x=y", "#"]
    out = account[0] / "words.json"
    told = "os.getcwd(), os.environ['TMPDIR'], 'EDGEFERRY_TOKEN' in os.environ, *sys.argv[2:]"
    program = f"import json, os, sys; json.dump([{told}], open(sys.argv[1], 'w'))"
    command = [os.sys.executable, "-c", program, str(out), *words]
    device.root.mkdir()
    (device.root / ".edgeferry-device").touch()
    unit = Systemd(device.root).unit
    unit.parent.mkdir(parents=True)
    unit.write_text(unit_text(device.root, device.root, command).replace("Type=notify", "Type=oneshot"))
    subprocess.run(["systemctl", "--user", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "--user", "set-environment", "EDGEFERRY_TOKEN=ours"], check=True)
    subprocess.run(["systemctl", "--user", "start", NAME], check=True)
    subprocess.run(["systemctl", "--user", "unset-environment", "EDGEFERRY_TOKEN"], check=True)
    assert json.loads(out.read_text()) == [str(device.root), str(device.root), False, *words]
    out.unlink()
    shutil.rmtree(account[0] / ".config")


def test_an_account_without_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert not systemd.available()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not systemd.available()
    with pytest.raises(EdgeferryError, match=r"the service: systemctl --user stop failed"):
        systemd._do("stop", NAME)
