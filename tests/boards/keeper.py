"""Owns one emulated board from its start to its end, as root: ``keeper.py SPEC``, where SPEC is JSON.

It answers each line of its stdin, ``on`` or ``off``, with a line of JSON, and ends where stdin does: where the tests
end, killed or not. The disk is in memory, the network and the processes are in namespaces without a name, and what
must die with this process is tied to it: killed itself, it leaves an empty folder or two, which the next one removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

RUN = Path("/run/edgeferry-boards")
CGROUPS = Path("/sys/fs/cgroup")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
START_S = 60
BOOT = """\
set -eu
lower=$1 disk=$2 address=$3 cpu=$4
echo born; read -r _
ip link set lo up; ip addr add "$address/30" dev eth0; ip link set eth0 up
root=$disk/root; mkdir -p "$disk/upper" "$disk/work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$disk/upper,workdir=$disk/work" overlay "$root"
mount -t proc proc "$root/proc"; mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"; mkdir "$root/dev/pts" "$root/dev/shm"
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"; done
mknod -m 666 "$root/dev/tty" c 5 0; ln -s /proc/self/fd "$root/dev/fd"; ln -s pts/ptmx "$root/dev/ptmx"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"; mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"; mkdir "$root/run/sshd"
hostname raspberrypi
export QEMU_CPU="$cpu" PATH=/usr/sbin:/usr/bin:/sbin:/bin
chroot "$root" cat /proc/cpuinfo > "$root/run/cpuinfo"; mount --bind "$root/run/cpuinfo" "$root/proc/cpuinfo"
exec chroot "$root" /usr/sbin/sshd -D -e -o "SetEnv=QEMU_CPU=$cpu"
"""


class Board:
    """The board itself: its namespaces while it is on, and its disk also while it is off."""

    def __init__(self, spec: dict, number: int, cgroup: Path | None) -> None:
        self.spec = spec
        self.cgroup = cgroup
        self.interface = f"efboard{number}"
        self.gateway, self.address = (f"10.78.{number}.{host}" for host in (1, 2))
        self.disk = RUN / str(number)
        self.process: subprocess.Popen[bytes] | None = None

    def on(self) -> dict:
        """Switch the board on, and wait for its sshd."""
        names = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"]
        given = self.spec["root"], str(self.disk), self.address, self.spec["cpu"]
        boot = ["sh", "-c", BOOT, "boot", *given]
        tied = ["setpriv", "--pdeathsig", "KILL", "unshare", *names, *boot]
        joined = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', f"{self.cgroup}/cgroup.procs"] if self.cgroup else []
        with (self.disk / "log").open("ab") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen([*joined, *tied], bufsize=0, **pipes)
        self.process.stdout.readline()
        self._connect()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"go\n")
        self._wait_for_sshd()
        return {"address": self.address, "pid": self.process.pid}

    def _connect(self) -> None:
        """Join the board to this machine by a cable of its own. It has no route to anywhere else."""
        peer = ["peer", "name", "eth0", "netns", str(self.process.pid)]
        ip("link", "add", self.interface, "type", "veth", *peer)
        ip("addr", "add", f"{self.gateway}/30", "dev", self.interface)
        ip("link", "set", self.interface, "up")

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=5) as line:
                if line.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the board did not start: {(self.disk / 'log').read_text(errors='replace')[-2000:]}")

    def off(self) -> dict:
        """Pull the plug: the cable is dead before any process is, so nobody can say goodbye."""
        if self.process is not None:
            ip("link", "del", self.interface, check=False)
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            with contextlib.suppress(OSError):
                for first in children.read_text().split():
                    os.kill(int(first), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)
            self.process.kill()
            self.process.wait()
        return {}


def ip(*words: str, check: bool = True) -> None:
    """Run iproute2's ip."""
    errors = None if check else subprocess.DEVNULL
    subprocess.run(["ip", *words], check=check, stderr=errors, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def numbered() -> Iterator[int]:
    """Take the first number that no living board has, and remove what a dead one left."""
    RUN.mkdir(exist_ok=True)
    for number in range(1, 255):
        with (RUN / f"{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _sweep(number)
            try:
                yield number
            finally:
                _sweep(number)
            return
    raise RuntimeError("254 boards are running")


def _sweep(number: int) -> None:
    ip("link", "del", f"efboard{number}", check=False)
    shutil.rmtree(RUN / str(number), ignore_errors=True)
    for folder in (CGROUPS / "memory", CGROUPS):
        with contextlib.suppress(OSError):
            (folder / f"efboard{number}").rmdir()


@contextlib.contextmanager
def disk(number: int, size_mb: int) -> Iterator[None]:
    """Make the disk of a board in memory; the mount is seen by this process and its children alone."""
    folder = RUN / str(number)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "board", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextlib.contextmanager
def limited(number: int, memory_mb: int) -> Iterator[Path | None]:
    """Make a control group that holds the board to its memory, or none where it has no limit."""
    if not memory_mb:
        yield None
        return
    old = CGROUPS / "memory"
    folder = (old if old.is_dir() else CGROUPS) / f"efboard{number}"
    folder.mkdir()
    limit = "memory.limit_in_bytes" if old.is_dir() else "memory.max"
    try:
        (folder / limit).write_text(str(memory_mb << 20))
        yield folder
    finally:
        _remove(folder)


def _remove(cgroup: Path) -> None:
    """Remove a control group; it is busy until the kernel has forgotten its last process."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.02)


@contextlib.contextmanager
def emulated(kind: dict) -> Iterator[None]:
    """Let the kernel run the board's programs by QEMU; whoever is the last to need it takes that back."""
    name = f"edgeferry-{kind['emulator'].rsplit('/')[-1]}"
    with (RUN / f"{name}.users").open("a") as users:
        with alone():
            if not _runs(name, kind["emulator"]):
                _forget(name)
                (BINFMT / "register").write_text(_rule(name, *kind["elf"], kind["emulator"]))
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with alone(), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _forget(name)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other keepers from the kernel's list of emulators, which is there afterwards."""
    with (RUN / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
        yield


def _runs(name: str, emulator: str) -> bool:
    with contextlib.suppress(OSError):
        return f"interpreter {emulator}\n" in (BINFMT / name).read_text()
    return False


def _forget(name: str) -> None:
    with contextlib.suppress(OSError):
        (BINFMT / name).write_text("-1")


def _rule(name: str, bits: int, order: int, machine: int, emulator: str) -> str:
    """Write a rule of binfmt_misc by ELF headers. With F the emulator is opened now, so that any root will do."""
    header = [*b"\x7fELF", bits, order, 1, *[0] * 9, 2, 0, machine, 0]
    mask = [*[0xFF] * 7, 0, *[0xFF] * 8, 0xFE, 0xFF, 0xFF, 0xFF]
    magic, masked = ("".join(f"\\x{byte:02x}" for byte in part) for part in (header, mask))
    return f":{name}:M::{magic}:{masked}:{emulator}:OCPF"


def serve(board: Board) -> None:
    """Answer the lines of stdin."""
    for line in sys.stdin:
        answer = {"on": board.on, "off": board.off}[line.strip()]()
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Keep a board until stdin ends or this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = json.loads(sys.argv[1])
    with contextlib.ExitStack() as held:
        number = held.enter_context(numbered())
        held.enter_context(emulated(spec))
        held.enter_context(disk(number, spec["disk_mb"]))
        board = Board(spec, number, held.enter_context(limited(number, spec["memory_mb"])))
        held.callback(board.off)
        serve(board)


if __name__ == "__main__":
    main()
