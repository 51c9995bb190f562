"""The real program and server of adb, of their own, and phones of which only the last part is ours."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.inventory import Entry


@pytest.fixture(scope="session")
def adbd() -> ModuleType:
    """The module of the device's side."""
    spec = importlib.util.spec_from_file_location("adbd", Path(__file__).with_name("adbd.py"))
    assert spec
    assert spec.loader
    module = sys.modules["adbd"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Iterator[str]:
    """An adb server that nobody else uses."""
    if not shutil.which("adb"):
        missing("adb is not installed (package adb)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    home = str(tmp_path_factory.mktemp("adb"))
    environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": port, "HOME": home, "TMPDIR": home}
    subprocess.run(["adb", "start-server"], env=environment, check=True, capture_output=True, timeout=60)
    yield port
    subprocess.run(["adb", "kill-server"], env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def tools(adbd: ModuleType, tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Path:
    """Android's shell and tools, which many builds of Debian have too."""
    found = [shutil.which(name) for name in ("mksh", "toybox")]
    if None in found:
        missing("mksh and toybox are not installed (packages of these names)")
    return adbd.userland(tmp_path_factory.mktemp("android") / "bin", *found)


@pytest.fixture
def start_phone(
    adbd: ModuleType,
    server_port: str,
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., Any],
) -> Iterator[Callable[..., Any]]:
    """Start phones that behave as one likes, and let the adb server connect to them."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", server_port)
    server = {**os.environ, "ANDROID_ADB_SERVER_PORT": server_port}
    started: list[Any] = []
    waiting: list[subprocess.Popen[bytes]] = []

    def start(waits: bool = True, path: str = str(tools), **behaviour: Any) -> Any:
        temporary = tmp_path / "phone"
        temporary.mkdir(exist_ok=True)
        environment = {"PATH": path, "HOME": "/", "TMPDIR": str(temporary), "ANDROID_ROOT": "/system"}
        started.append(adbd.Phone(environment, **behaviour))
        connecting = subprocess.Popen(["adb", "connect", started[-1].serial], env=server, stdout=subprocess.DEVNULL)
        waiting.append(connecting)
        wait_until(lambda: started[-1].lines and (not waits or connecting.poll() is not None))
        return started[-1]

    yield start
    for phone in started:
        leave = ["adb", "disconnect", phone.serial]
        subprocess.run(leave, env=server, capture_output=True, timeout=60, check=False)
        phone.close()
    for connecting in waiting:
        connecting.wait(timeout=30)


@pytest.fixture
def phone(start_phone: Callable[..., Any]) -> Any:
    """A phone that is ready."""
    return start_phone()


@pytest.fixture
def over_adb(phone: Any, tmp_path: Path) -> AdbDevice:
    """The same as a device, with a folder of its own."""
    return AdbDevice(Entry("phone", f"adb:{phone.serial}", root=str(tmp_path / "device")))
