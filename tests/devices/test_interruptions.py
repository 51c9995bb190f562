"""What is cut off leaves nothing but temporaries, and the next push succeeds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import history, inventory
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.ssh import Deadlines
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceError, DeviceTimeoutError, RemoteCommandError, UnreachableError
from edgeferry_runtime.store import Store

PADDING = 4_000_000
LIMIT = 1_000_000
QUICK = Deadlines(connect=5, banner=5, auth=5, channel=5, idle=5, attempts=1)


class Proxy:
    """Stands between host and server, and cuts or freezes the line once `LIMIT` bytes have gone to the server."""

    def __init__(self, port: int, then: str) -> None:
        self.then = then
        self.upstream_port = port
        self.spent = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            upstream = socket.create_connection(("127.0.0.1", self.upstream_port))
            self.sockets += [connection, upstream]
            threading.Thread(target=self.copy, args=(upstream, connection, 1 << 40), daemon=True).start()
            self.copy(connection, upstream, LIMIT)

    def copy(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        with contextlib.suppress(OSError):
            while limit > 0 and (chunk := source.recv(1 << 15)) and not self.spent.is_set():
                target.sendall(chunk)
                limit -= len(chunk)
            if limit <= 0:
                self.spent.set()
                if self.then == "cut":
                    self.close()

    def close(self) -> None:
        for sock in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def behind(server: Any, root: Path) -> Iterator[Callable[..., RemoteDevice]]:
    """Open the server's device through a proxy."""
    opened: list[Any] = []

    def reach(then: str, deadlines: Deadlines = QUICK) -> RemoteDevice:
        proxy = Proxy(server.port, then)
        server.trust(proxy.port)
        device = RemoteDevice(replace(server.entry(root), port=proxy.port), deadlines)
        opened.extend([device, proxy])
        return device

    yield reach
    for thing in opened:
        thing.close()


def test_cut_upload_then_a_push_that_succeeds(
    behind: Callable, pi: RemoteDevice, root: Path, bundle: Bundle, make_bundle: Callable
) -> None:
    push(bundle, pi)
    large = make_bundle(padding=PADDING)
    with pytest.raises(UnreachableError, match="pi: the connection was lost while sending") as caught:
        push(large, behind("cut"))
    assert caught.value.exit_code == 4
    assert (root / "bundles/tiny/current").resolve().name == bundle.id
    assert not push(large, pi).up_to_date
    assert (root / "bundles/tiny/current").resolve().name == large.id
    assert list((root / "store/incoming").iterdir()) == []


def test_frozen_line_ends_in_time(behind: Callable, pi: RemoteDevice, make_bundle: Callable) -> None:
    large = make_bundle(padding=PADDING)
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="pi: did not answer in time while sending"):
        push(large, behind("freeze", replace(QUICK, idle=1)))
    assert time.monotonic() - started < 20


def test_upload_damaged_on_the_way(place: Any, bundle: Bundle) -> None:
    spoilt: list[str] = []

    def put(local: Path, remote: str, offset: int = 0) -> int:
        size: int = type(place.device).put(place.device, local, remote, offset)
        if not spoilt:
            spoilt.append(remote)
            content = bytearray(Path(remote).read_bytes())
            content[0] ^= 1
            Path(remote).write_bytes(content)
        return size

    place.device.put = put
    with pytest.raises(DeviceError, match="arrived damaged: its SHA-256 differs") as caught:
        push(bundle, place.device)
    assert caught.value.exit_code == 4
    assert not list(place.root.glob("bundles/*/current"))
    assert not list(place.root.rglob(Path(spoilt[0]).name))
    assert not push(bundle, place.device).up_to_date
    assert list((place.root / "store" / "incoming").iterdir()) == []


@pytest.fixture
def interrupt(wait_until: Callable) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ferry, and press Ctrl-C once `when` holds."""

    def run(argv: list[str], when: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeferry_runtime", *argv]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            wait_until(lambda: when() or process.poll() is not None, 120)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.mark.parametrize("when", ["upload", "probe"])
def test_ctrl_c(place: Any, when: str, bundle: Bundle, make_bundle: Callable, interrupt: Callable) -> None:
    push(bundle, place.device)
    large = make_bundle(padding=200_000_000 if when == "upload" else 1000)
    sign = {"upload": "store/incoming/*/*.part", "probe": "bundles/tiny/releases/.*.part"}[when]
    done = interrupt(["push", str(large.path), place.name], lambda: any(place.root.glob(sign)))
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        pytest.skip("the push was faster than the finger")
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "ferry: interrupted"
    assert (place.root / "bundles/tiny/current").resolve().name == bundle.id
    assert not push(make_bundle(padding=3000), place.device).up_to_date
    assert list((place.root / "store" / "incoming").iterdir()) == []
    assert not list(place.root.glob("bundles/*/releases/.*"))


def test_ctrl_c_while_it_measures_keeps_what_was_measured(
    place: Any, make_bundle: Callable, interrupt: Callable
) -> None:
    bundles = [str(make_bundle(name).path) for name in "ab"]
    argv = ["profile", *bundles, "--on", place.name, "--rounds", "99", "--min-secs", "0.5", "--max-warmup-secs", "0"]
    done = interrupt(argv, lambda: len(list(history.folder().rglob("*.gz"))) >= 3)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1] == "ferry: interrupted"
    assert "Traceback" not in done.stderr
    said: list[str] = []
    kept = history.read(say=said.append)
    assert len(kept) >= 3
    assert len({m.run for m in kept}) == 1
    assert said == []
    assert {path.suffix for path in history.folder().rglob("*") if path.is_file()} == {".gz"}
    Store.open(place.root).lock("next", 30).close()


def test_ctrl_c_while_the_device_waits(place: Any, bundle: Bundle, interrupt: Callable) -> None:
    lock = place.root / "lock"
    argv = ["profile", str(bundle.path), "--on", place.name, "--max-load", "0"]
    done = interrupt(argv, lambda: lock.is_file() and "measurement by" in lock.read_text())
    assert (done.returncode, done.stdout) == (130, "")
    assert history.read() == []
    Store.open(place.root).lock("next", 30).close()


def test_work_that_nobody_waits_for_is_ended(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    agent = place.device.open_agent(["onnx"])
    options = {"num_runs": 10**9, "max_secs": 100.0}
    with pytest.raises(DeviceTimeoutError, match="did not answer in time while waiting for 'bench'"):
        agent.ask("bench", timeout=1.5, name="tiny", id=bundle.id, options=options, device="pi", owner="ann@desk")
    started = time.monotonic()
    agent.close()
    with place.device.open_agent() as other:
        other.ask("stage", owner="bob@desk", wait_s=30.0)
    assert time.monotonic() - started < 30


def test_agent_that_dies_is_reported(tmp_path: Path) -> None:
    device = LocalDevice(tmp_path / "root")
    agent = device.open_agent()
    with agent:
        agent.ask("hello")
        agent._pipe._process.kill()
        with pytest.raises(RemoteCommandError, match="ended with status -9") as caught:
            agent.ask("hello")
    assert caught.value.exit_status == -signal.SIGKILL


def test_unknown_device_is_said_by_push(bundle: Bundle, interrupt: Callable) -> None:
    inventory.add(inventory.Entry("pi", "127.0.0.1", port=1))
    done = interrupt(["push", str(bundle.path), "pie"], lambda: False)
    assert done.returncode == 2
    assert "did you mean 'pi'" in done.stderr
