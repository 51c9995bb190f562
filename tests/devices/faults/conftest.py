"""A device behind a line that can be cut, with a release on it, and another bundle to push."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_devices import inventory
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.ssh import Deadlines
from edgeferry_runtime.bundle import Bundle

SHORT = Deadlines(connect=5, banner=5, auth=10, channel=5, idle=5, attempts=1)
PADDING = 6_000_000
LIMIT = 2_000_000
ROUNDS = range(int(os.environ.get("EDGEFERRY_FAULT_ROUNDS", "1")))


class Line:
    """Stands between host and server: can be cut, and blackholed, and acts once when `LIMIT` bytes have gone up."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.open = threading.Event()
        self.open.set()
        self.action: Callable[[], object] | None = None
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.upstream))
                self.sockets += [near, far]
                threading.Thread(target=self.copy, args=(far, near, False), daemon=True).start()
                threading.Thread(target=self.copy, args=(near, far, True), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        gone = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 15):
                gone += len(chunk)
                if up and gone > LIMIT and self.action:
                    action, self.action = self.action, None
                    action()
                self.open.wait()
                target.sendall(chunk)
        self.open.wait()
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self, for_good: bool = True) -> None:
        if for_good:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.open.set()
        self.cut()
        for sock in self.sockets:
            sock.close()


def processes() -> dict[int, tuple[int, str]]:
    """Every process: its parent and its command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
    return found


@dataclass
class Bench:
    """A device behind a line, with a release on it, and another bundle to push."""

    line: Line
    device: RemoteDevice
    direct: RemoteDevice
    root: Path
    old: Bundle
    new: Bundle
    sshd: int

    def push_with_fault(self, stage: str, fault: Callable[[], object]) -> Any:
        """Push; the fault comes once at a stage."""
        self.direct.close()
        if stage == "upload":
            self.line.action = fault
        if stage == "probe":
            threading.Thread(target=self.act_in_probe, args=(fault,), daemon=True).start()

        def say(text: str) -> None:
            if stage == "begin" and "sending" in text and not said:
                said.append(text)
                fault()

        said: list[str] = []
        return push(self.new, self.device, say)

    def act_in_probe(self, fault: Callable[[], object]) -> None:
        """Act while the engine's process stands still, so that it cannot have ended before."""
        deadline = time.monotonic() + 60
        while not (found := self.workers()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.signal(found, signal.SIGSTOP)
        fault()
        self.signal(found, signal.SIGCONT)

    def agents(self) -> list[int]:
        return [pid for pid, (_, line) in processes().items() if f"edgeferry_runtime.agent {self.root}" in line]

    def workers(self) -> list[int]:
        agents = self.agents()
        return [pid for pid, (parent, line) in processes().items() if parent in agents and "worker" in line]

    def sessions(self) -> list[int]:
        """The server's processes that hold a connection."""
        all_of_them, found = processes(), [self.sshd]
        for pid in found:
            found += [child for child, (parent, line) in all_of_them.items() if parent == pid and "sshd" in line]
        return found[1:]

    def signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def current(self) -> str:
        return (self.root / "bundles/tiny/current").resolve().name

    def check_store(self) -> None:
        """Nothing is torn: every release is what its manifest says, every content what its name says."""
        for release in (self.root / "bundles/tiny/releases").glob("[!.]*"):
            Bundle.open(release).check()
        for blob in (self.root / "store").iterdir():
            assert blob.is_dir() or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        assert self.current() in (self.old.id, self.new.id)

    def check_probe_passes(self) -> None:
        """The release that stands computes what its source did."""
        with Bundle.open(self.root / "bundles/tiny/current").load() as model:
            golden = self.old.probe()
            for feeds, wanted in zip(golden.feeds(), golden.outputs["y"], strict=True):
                np.testing.assert_allclose(model.run(feeds)["y"], wanted, atol=1e-5)

    def check_old_answers_then_push(self, may_stand: bool = False) -> None:
        """With `may_stand` the device, which was not told that its host is gone, may have ended the push by itself."""
        self.check_store()
        if not may_stand:
            assert self.current() == self.old.id
            assert push(self.old, self.direct).up_to_date
            self.check_probe_passes()
        assert push(self.new, self.direct).up_to_date <= may_stand
        assert self.current() == self.new.id
        self.check_store()
        assert list((self.root / "store/incoming").iterdir()) == []
        assert not list(self.root.glob("bundles/*/releases/.*"))


@pytest.fixture
def make_line() -> Iterator[Callable[[int], Line]]:
    """Put lines in front of servers, by their ports."""
    with contextlib.ExitStack() as lines:

        def make(port: int) -> Line:
            line = Line(port)
            lines.callback(line.close)
            return line

        yield make


@pytest.fixture(params=ROUNDS)
def bench(openssh: Any, root: Path, make_bundle: Callable[..., Bundle]) -> Iterator[Bench]:
    line = Line(openssh.port)
    openssh.trust()
    openssh.trust(line.port)
    inventory.add(openssh.entry(root))
    device = RemoteDevice(replace(openssh.entry(root), port=line.port), SHORT)
    direct = RemoteDevice(openssh.entry(root))
    old = make_bundle()
    push(old, direct)
    sshd = int((openssh.key.parent / "sshd.pid").read_text())
    found = Bench(line, device, direct, root, old, make_bundle(padding=PADDING), sshd)
    yield found
    found.signal([*found.sessions(), *found.agents()], signal.SIGCONT)
    for thing in (line, device, direct):
        thing.close()
