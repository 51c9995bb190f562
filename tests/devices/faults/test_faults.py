"""Faults while pushing, produced for real at each stage of a push: nothing is torn, and the next push succeeds.

Each is repeated as often as ``EDGEFERRY_FAULT_ROUNDS`` says; those that take long are marked slow.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import inventory, pushing
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
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

slow = pytest.mark.slow


def at(*stages: str) -> Any:
    """Run at these stages; the first one by default, the others when slow ones are asked for."""
    marked = [stages[0], *(pytest.param(stage, marks=slow) for stage in stages[1:])]
    return pytest.mark.parametrize("stage", marked)


@at("upload", "begin", "probe")
def test_line_cut_for_good(bench: Any, stage: str) -> None:
    with pytest.raises(UnreachableError, match="the connection was lost while"):
        bench.push_with_fault(stage, bench.line.cut)
    bench.check_old_answers_then_push()


@at("upload", "begin", "probe")
def test_line_cut_once_is_taken_up_by_the_same_push(bench: Any, stage: str) -> None:
    whole = sum((bench.new.path / name).stat().st_size for name in bench.new.manifest.files)
    result = bench.push_with_fault(stage, lambda: bench.line.cut(for_good=False))
    assert bench.current() == bench.new.id
    assert stage != "upload" or 0 < result.bytes_sent < whole
    bench.check_store()


@slow
@at("upload", "begin", "probe")
def test_blackhole_shorter_than_the_deadline(bench: Any, stage: str) -> None:
    def pause() -> None:
        bench.line.open.clear()
        threading.Timer(0.7, bench.line.open.set).start()

    assert not bench.push_with_fault(stage, pause).up_to_date
    bench.check_store()
    assert bench.current() == bench.new.id


@slow
@at("upload", "begin", "probe")
def test_blackhole_longer_than_the_deadline(bench: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is not told: its agent holds the lock for a session that is dead, until the next push breaks it."""
    with monkeypatch.context() as patch, pytest.raises(DeviceTimeoutError, match="did not answer in time while"):
        patch.setattr(pushing, "PROOF_TIMEOUT_S", 3.0)
        bench.push_with_fault(stage, bench.line.open.clear)
    bench.check_old_answers_then_push(may_stand=stage == "probe")


@slow
@at("upload", "begin", "probe")
def test_sshd_killed(bench: Any, stage: str) -> None:
    """The sessions' processes are; the server takes new connections, so that the push goes on by itself."""
    bench.push_with_fault(stage, lambda: bench.signal(bench.sessions(), signal.SIGKILL))
    bench.check_store()
    assert bench.current() == bench.new.id


@slow
@at("upload", "begin", "probe")
def test_sshd_frozen(bench: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(DeviceTimeoutError, match="did not answer in time while"):
        patch.setattr(pushing, "PROOF_TIMEOUT_S", 3.0)
        bench.push_with_fault(stage, lambda: bench.signal(bench.sessions(), signal.SIGSTOP))
    frozen = bench.sessions()
    bench.check_old_answers_then_push(may_stand=stage == "probe")
    bench.signal(frozen, signal.SIGCONT)
    time.sleep(0.5)
    bench.check_store()


@at("probe", "begin", "upload")
def test_agent_killed(bench: Any, stage: str) -> None:
    with pytest.raises(RemoteCommandError, match=r"agent commit' ended with status -?\d+: it was killed"):
        bench.push_with_fault(stage, lambda: bench.signal(bench.agents(), signal.SIGKILL))
    bench.check_old_answers_then_push()
    assert bench.workers() == []


@slow
@at("upload", "begin", "probe")
def test_device_killed(bench: Any, stage: str) -> None:
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
def test_engine_dies_in_the_probe(bench: Any, number: int, words: str) -> None:
    """As the kernel ends it: for want of memory (137), or at an instruction that the CPU lacks (132)."""
    with pytest.raises(EngineCrashError, match=f"{words}.*release {bench.old.id[:12]} stays the current one"):
        bench.push_with_fault("probe", lambda: bench.signal(bench.workers(), number))
    bench.check_old_answers_then_push()


@slow
@pytest.mark.parametrize("stage", ["upload", "probe"])
def test_host_killed(bench: Any, stage: str) -> None:
    argv = [sys.executable, "-m", "edgeferry_runtime", "push", str(bench.new.path), "pi"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as host:
        sign = "store/incoming/*/*.part" if stage == "upload" else "bundles/tiny/releases/.*.part"
        deadline = time.monotonic() + 30
        while not list(bench.root.glob(sign)) and time.monotonic() < deadline:
            time.sleep(0.002)
        host.kill()
    bench.check_old_answers_then_push()


@slow
def test_two_hosts_at_once(bench: Any) -> None:
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


def test_host_key_changed_in_between(bench: Any, start_server: Callable) -> None:
    bench.line.upstream = start_server().port
    with pytest.raises(HostKeyError, match=r"SHA256:.*SHA256:"):
        push(bench.new, bench.device)
    bench.check_old_answers_then_push()


@slow
def test_line_cut_and_the_host_key_changed_in_between(bench: Any, start_server: Callable) -> None:
    def other_machine() -> None:
        bench.line.upstream = start_server().port
        bench.line.cut(for_good=False)

    with pytest.raises(UnreachableError):
        bench.push_with_fault("upload", other_machine)
    bench.check_old_answers_then_push()


@slow
def test_content_that_rots_on_the_device(bench: Any) -> None:
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
def test_disk_full(small_disk: Callable, bench: Any, stage: str) -> None:
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
def test_disk_read_only(small_disk: Callable, bench: Any) -> None:
    small_disk("ro")
    with pytest.raises(DeviceRequirementError, match="Read-only file system"):
        push(bench.new, bench.device)
    small_disk("rw")
    bench.check_old_answers_then_push()


@slow
@pytest.mark.parametrize("years", [-30, 30])
def test_clock_jumped(bench: Any, tmp_path: Path, years: int) -> None:
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
        with bench.device.open_agent() as second, pytest.raises(DeviceBusyError, match=r"pid \d+ there\) for \d+ s"):
            second.ask("stage", owner="bob@desk", wait_s=0.1)
    bench.check_old_answers_then_push()
