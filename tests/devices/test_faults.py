"""Faults while pushing, produced for real at each stage of a push: nothing is torn, and the next push succeeds.

Each is repeated as often as ``EDGEFERRY_FAULT_ROUNDS`` says; those that take long are marked slow.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_devices import inventory, pushing
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.ssh import Deadlines
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import (
    DeviceBusyError,
    DeviceRequirementError,
    DeviceTimeoutError,
    EngineCrashError,
    HostKeyError,
    RemoteCommandError,
    UnreachableError,
)

SHORT = Deadlines(connect=5, banner=5, auth=10, channel=5, idle=2, attempts=1)
PADDING = 6_000_000
LIMIT = 2_000_000
STAGES = ("begin", "upload", "probe")
ROUNDS = range(int(os.environ.get("EDGEFERRY_FAULT_ROUNDS", "1")))
slow = pytest.mark.slow


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
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not self.workers():
            time.sleep(0.01)
        fault()

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


def at(*stages: str) -> Any:
    """Run at these stages; the first one by default, the others when slow ones are asked for."""
    marked = [stages[0], *(pytest.param(stage, marks=slow) for stage in stages[1:])]
    return pytest.mark.parametrize("stage", marked)


@at("upload", "begin", "probe")
def test_line_cut_for_good(bench: Bench, stage: str) -> None:
    with pytest.raises(UnreachableError, match="the connection was lost while"):
        bench.push_with_fault(stage, bench.line.cut)
    bench.check_old_answers_then_push()


@at("upload", "begin", "probe")
def test_line_cut_once_is_taken_up_by_the_same_push(bench: Bench, stage: str) -> None:
    whole = sum((bench.new.path / name).stat().st_size for name in bench.new.manifest.files)
    result = bench.push_with_fault(stage, lambda: bench.line.cut(for_good=False))
    assert bench.current() == bench.new.id
    assert stage != "upload" or 0 < result.bytes_sent < whole
    bench.check_store()


@slow
@at("upload", "begin", "probe")
def test_blackhole_shorter_than_the_deadline(bench: Bench, stage: str) -> None:
    def pause() -> None:
        bench.line.open.clear()
        threading.Timer(0.7, bench.line.open.set).start()

    assert not bench.push_with_fault(stage, pause).up_to_date
    bench.check_store()
    assert bench.current() == bench.new.id


@slow
@at("upload", "begin", "probe")
def test_blackhole_longer_than_the_deadline(bench: Bench, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is not told: its agent holds the lock for a session that is dead, until the next push breaks it."""
    with monkeypatch.context() as patch, pytest.raises(DeviceTimeoutError, match="did not answer in time while"):
        patch.setattr(pushing, "PROOF_TIMEOUT_S", 3.0)
        bench.push_with_fault(stage, bench.line.open.clear)
    bench.check_old_answers_then_push(may_stand=stage == "probe")


@slow
@at("upload", "begin", "probe")
def test_sshd_killed(bench: Bench, stage: str) -> None:
    """The sessions' processes are; the server takes new connections, so that the push goes on by itself."""
    bench.push_with_fault(stage, lambda: bench.signal(bench.sessions(), signal.SIGKILL))
    bench.check_store()
    assert bench.current() == bench.new.id


@slow
@at("upload", "begin", "probe")
def test_sshd_frozen(bench: Bench, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(DeviceTimeoutError, match="did not answer in time while"):
        patch.setattr(pushing, "PROOF_TIMEOUT_S", 3.0)
        bench.push_with_fault(stage, lambda: bench.signal(bench.sessions(), signal.SIGSTOP))
    frozen = bench.sessions()
    bench.check_old_answers_then_push(may_stand=stage == "probe")
    bench.signal(frozen, signal.SIGCONT)
    time.sleep(0.5)
    bench.check_store()


@at("probe", "begin", "upload")
def test_agent_killed(bench: Bench, stage: str) -> None:
    with pytest.raises(RemoteCommandError, match=r"agent commit' ended with status -?\d+: it was killed"):
        bench.push_with_fault(stage, lambda: bench.signal(bench.agents(), signal.SIGKILL))
    bench.check_old_answers_then_push()
    assert bench.workers() == []


@slow
@at("upload", "begin", "probe")
def test_device_killed(bench: Bench, stage: str) -> None:
    """All of its processes at once, and the line with them, as when its power fails; but no page is lost."""

    def die() -> None:
        bench.line.cut()
        bench.signal([*bench.workers(), *bench.agents(), *bench.sessions()], signal.SIGKILL)

    with pytest.raises((UnreachableError, RemoteCommandError), match=r"the connection was lost|was killed"):
        bench.push_with_fault(stage, die)
    bench.check_old_answers_then_push()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "most likely for want of memory"),
        pytest.param(signal.SIGILL, "lacks instructions", marks=slow),
        pytest.param(signal.SIGSEGV, "crashed with SIGSEGV", marks=slow),
    ],
)
def test_engine_dies_in_the_probe(bench: Bench, number: int, words: str) -> None:
    """As the kernel ends it: for want of memory (137), or at an instruction that the CPU lacks (132)."""
    with pytest.raises(EngineCrashError, match=f"{words}.*release {bench.old.id[:12]} stays the current one"):
        bench.push_with_fault("probe", lambda: bench.signal(bench.workers(), number))
    bench.check_old_answers_then_push()


@slow
@pytest.mark.parametrize("stage", ["upload", "probe"])
def test_host_killed(bench: Bench, stage: str) -> None:
    argv = [sys.executable, "-m", "edgeferry_runtime", "push", str(bench.new.path), "pi"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as host:
        sign = "store/incoming/*/*.part" if stage == "upload" else "bundles/tiny/releases/.*.part"
        deadline = time.monotonic() + 30
        while not list(bench.root.glob(sign)) and time.monotonic() < deadline:
            time.sleep(0.002)
        host.kill()
    bench.check_old_answers_then_push()


@slow
def test_two_hosts_at_once(bench: Bench) -> None:
    """One waits for the other, or is told who holds the device; what stands in the end is whole."""
    outcomes: list[object] = []

    def go(bundle: Bundle) -> None:
        device = RemoteDevice(inventory.get("pi"))
        try:
            outcomes.append(push(bundle, device))
        except DeviceBusyError as error:
            assert f"pid {os.getpid()}" in str(error)
            outcomes.append(error)
        finally:
            device.close()

    threads = [threading.Thread(target=go, args=(bundle,)) for bundle in (bench.old, bench.new, bench.new)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3
    bench.check_store()
    push(bench.new, bench.direct)
    bench.check_store()


def test_host_key_changed_in_between(bench: Bench, start_server: Callable) -> None:
    bench.line.upstream = start_server().port
    with pytest.raises(HostKeyError, match=r"SHA256:.*SHA256:"):
        push(bench.new, bench.device)
    bench.check_old_answers_then_push()


@slow
def test_line_cut_and_the_host_key_changed_in_between(bench: Bench, start_server: Callable) -> None:
    def other_machine() -> None:
        bench.line.upstream = start_server().port
        bench.line.cut(for_good=False)

    with pytest.raises(UnreachableError):
        bench.push_with_fault("upload", other_machine)
    bench.check_old_answers_then_push()


@slow
def test_content_that_rots_on_the_device(bench: Bench) -> None:
    """A release shares its files with the store: both have rotted. What is sent again repairs both."""
    digest = bench.old.manifest.files["model.onnx"]
    blob = bench.root / "store" / digest
    blob.write_bytes(blob.read_bytes()[::-1])
    assert not push(bench.new, bench.direct).up_to_date
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest
    assert not push(bench.old, bench.direct).up_to_date
    bench.check_store()


@pytest.fixture
def small_disk(root: Path) -> Iterator[Callable[[str], None]]:
    """A file system of 24 MB at the device's folder; the function mounts it anew with other options."""
    kept = root.with_name("kept")
    shutil.copytree(root, kept, symlinks=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    shutil.copytree(kept, root, symlinks=True, dirs_exist_ok=True)
    yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(root)], check=True) and None
    subprocess.run(["umount", "-l", str(root)], check=False)


@pytest.mark.parametrize("stage", ["upload", pytest.param("begin", marks=slow)])
def test_disk_full(small_disk: Callable, bench: Bench, stage: str) -> None:
    filler = bench.root.parent / "device" / "others"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while file.write(bytes(1 << 16)):
                pass

    with pytest.raises(DeviceRequirementError, match=r"0\.\d MB are free in"):
        bench.push_with_fault(stage, fill)
    filler.unlink()
    bench.check_old_answers_then_push()


@slow
def test_disk_read_only(small_disk: Callable, bench: Bench) -> None:
    small_disk("ro")
    with pytest.raises(DeviceRequirementError, match="Read-only file system"):
        push(bench.new, bench.device)
    small_disk("rw")
    bench.check_old_answers_then_push()


@slow
@pytest.mark.parametrize("years", [-30, 30])
def test_clock_jumped(bench: Bench, tmp_path: Path, years: int) -> None:
    """The device's Python is years off; ages and deadlines count from what does not jump."""
    other = tmp_path / "venv"
    venv.create(other, symlinks=True)
    stamp = (bench.root / "venv/edgeferry.json").read_text()
    (other / "edgeferry.json").write_text(stamp)
    packages = next(other.glob("lib/python3*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    jump = f"import time; time.time = lambda true=time.time: true() + {years * 31_557_600}"
    (packages / "clock.pth").write_text(f"{jump}\nimport site; site.addsitedir({here!r})\n")
    (bench.root / "venv").unlink()
    (bench.root / "venv").symlink_to(other)
    with bench.direct.open_agent() as agent:
        agent.take("stage")
        with bench.device.open_agent() as second, pytest.raises(DeviceBusyError, match=r"pid \d+ there\) for \d s"):
            second.ask("stage", owner="bob@desk", wait_s=0.1)
    bench.check_old_answers_then_push()
