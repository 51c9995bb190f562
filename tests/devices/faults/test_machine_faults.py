"""Faults of the machine itself while pushing: memory that runs out, a disk that turns read-only, power that fails.

They need root, and what the kernel has for them: a memory cgroup, loop devices, ext4.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from typing import Any

import pytest

from edgeferry_devices.pushing import push
from edgeferry_runtime.errors import DeviceRequirementError, EngineCrashError, RemoteCommandError, UnreachableError

slow = pytest.mark.slow
MEMORY_BYTES = 8 << 20
DISK_BYTES = 64 << 20
HARSH = "loop,errors=remount-ro,commit=300,noauto_da_alloc"
"""ext4 writes nothing by itself for five minutes, and has no second thoughts about a file that is renamed."""


class SmallMemory:
    """A memory cgroup, of the first or the second version, that holds less than an engine needs."""

    def __init__(self) -> None:
        first = Path("/sys/fs/cgroup/memory")
        self.old = first.is_dir()
        self.folder = (first if self.old else Path("/sys/fs/cgroup")) / f"edgeferry-{uuid.uuid4().hex}"
        self.folder.mkdir()
        limits = {"memory.limit_in_bytes": MEMORY_BYTES, "memory.swappiness": 0} if self.old else {}
        for name, value in (limits or {"memory.max": MEMORY_BYTES, "memory.swap.max": 0}).items():
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (self.folder / name).write_text(str(value))
        if not (self.folder / self.events).exists():
            raise OSError("the memory controller is not there")

    @property
    def events(self) -> str:
        return "memory.oom_control" if self.old else "memory.events"

    def hold(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self.folder / "cgroup.procs").write_text(str(pid))

    def killed(self) -> int:
        """How many the kernel killed."""
        counts = dict(line.split() for line in (self.folder / self.events).read_text().splitlines())
        return int(counts["oom_kill"])

    def remove(self) -> None:
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.1)
        self.folder.rmdir()


@pytest.fixture
def small_memory() -> Iterator[SmallMemory]:
    try:
        memory = SmallMemory()
    except OSError as error:
        pytest.skip(f"a memory cgroup cannot be made here: {error}")
    yield memory
    memory.remove()


def test_memory_runs_out_in_the_probe(bench: Any, small_memory: SmallMemory) -> None:
    """The kernel kills the engine's process, and the agent lives to tell."""
    words = f"the process was killed, most likely for want of memory.*release {bench.old.id[:12]} stays the current one"
    with pytest.raises(EngineCrashError, match=words):
        bench.push_with_fault("probe", lambda: small_memory.hold(bench.workers()))
    assert small_memory.killed() == 1
    bench.check_old_answers_then_push()


class Disk:
    """An ext4 file system in a file, mounted at a folder; what is in the file is what the disk has."""

    def __init__(self, folder: Path, mounted_at: Path) -> None:
        self.image = folder / "disk.img"
        self.kept = folder / "disk-at-the-cut.img"
        self.place = mounted_at
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", HARSH, self.image, self.place)

    def fail(self) -> None:
        """Have the file system find an error, upon which the kernel turns it read-only, open files or not."""
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        device = next(Path(words[0]) for words in mounts if words[1] == str(self.place))
        Path("/sys/fs/ext4", device.name, "trigger_fs_error").write_text("test")

    def repair(self) -> None:
        """Go on with a repaired copy; the file system itself may still be mounted in another process's view."""
        self.keep()
        subprocess.run(["e2fsck", "-fy", self.kept], capture_output=True, check=False)
        run("e2fsck", "-fn", self.kept)
        self.power_up()

    def keep(self) -> None:
        """Copy what the disk has at this moment: twice, until nothing was written between the two."""
        while True:
            for target in (self.kept, self.kept.with_suffix(".again")):
                run("cp", "--sparse=always", self.image, target)
            if not subprocess.run(["cmp", "-s", self.kept, self.kept.with_suffix(".again")], check=False).returncode:
                return

    def power_up(self) -> None:
        """Go on with what was kept; what was only in memory at that moment is lost."""
        run("umount", "-l", self.place)
        self.image = self.kept.rename(self.kept.with_name("disk-anew.img"))
        self.mount()

    def leave(self) -> None:
        for _ in range(100):
            if not subprocess.run(["umount", self.place], capture_output=True, check=False).returncode:
                return
            time.sleep(0.1)
        run("umount", "-l", self.place)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def disk(root: Path, tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own at the device's folder."""
    kept = root.with_name("kept")
    shutil.copytree(root, kept, symlinks=True)
    try:
        found = Disk(tmp_path, root)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no file system can be mounted from a file here: {error}")
    shutil.copytree(kept, root, symlinks=True, dirs_exist_ok=True)
    os.sync()
    yield found
    found.leave()


@pytest.mark.parametrize("stage", ["upload", pytest.param("begin", marks=slow), pytest.param("probe", marks=slow)])
def test_disk_turns_read_only(disk: Disk, bench: Any, stage: str) -> None:
    """As a worn SD card does: the kernel finds an error, and takes no write any more."""
    with pytest.raises(DeviceRequirementError, match="Read-only file system"):
        bench.push_with_fault(stage, disk.fail)
    assert bench.current() == bench.old.id
    bench.check_probe_passes()
    bench.device.close()
    bench.signal(bench.agents(), SIGKILL)
    disk.repair()
    bench.check_old_answers_then_push()


@pytest.mark.parametrize("stage", ["switch", *(pytest.param(s, marks=slow) for s in ("begin", "upload", "probe"))])
def test_power_fails(disk: Disk, bench: Any, stage: str) -> None:
    """The pages that were not written are lost; after the switch nothing that counts may be among them."""

    def cut() -> None:
        alive = [*bench.workers(), *bench.agents(), *bench.sessions()]
        bench.signal(alive, SIGSTOP)
        disk.keep()
        bench.line.cut()
        bench.signal(alive, SIGKILL)

    if stage == "switch":
        push(bench.new, bench.device)
        cut()
    else:
        with pytest.raises((UnreachableError, RemoteCommandError)):
            bench.push_with_fault(stage, cut)
    bench.device.close()
    bench.direct.close()
    disk.power_up()
    if stage != "switch":
        bench.check_old_answers_then_push()
        return
    assert bench.current() == bench.new.id
    bench.check_store()
    bench.check_probe_passes()
    assert push(bench.new, bench.direct).up_to_date
