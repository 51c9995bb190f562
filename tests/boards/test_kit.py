"""The boards themselves: what they are, and that nothing is left of them however they end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from board import AS_ROOT, Board, Hardware, number_of

RUN = Path("/run/edgeferry-boards")
pytestmark = pytest.mark.boards

START = """
import sys, time
from pathlib import Path
from board import Board, Hardware
board = Board(Hardware(), Path(sys.argv[1]))
print(board.keeper.pid, board.address, flush=True)
time.sleep(600)
"""
ASK = """
uname -m; id -un
python3 -c 'import struct, venv; print(8 * struct.calcsize("P"))'
python3 -c 'import socket; socket.create_connection(("192.0.2.1", 80), 5)' 2>&1 | tail -1
command -v pip3 sudo
exit 0
"""


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def left(address: str) -> list[str]:
    """Return what is left of the board with an address, unless another board has its number by now."""
    number = number_of(address)
    places = [Path(f"/sys/class/net/efboard{number}"), RUN / str(number)]
    groups = [Path(f"/sys/fs/cgroup/{folder}efboard{number}") for folder in ("memory/", "")]
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(RUN) in line]
    with (RUN / f"{number}.lock").open() as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found += [str(place) for place in (*places, *groups) if place.exists()]
    return [*found, *needless_rules()]


def needless_rules() -> list[str]:
    """Return the rules by which the kernel finds an emulator that no board needs."""
    found = []
    with (RUN / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in RUN.glob("*.users"):
            with path.open() as users, contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found += [str(rule) for rule in Path("/proc/sys/fs/binfmt_misc").glob(path.stem)]
    return found


def processes(keeper: int) -> list[int]:
    """Return the processes below a keeper."""
    listed = subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True)
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    family, before = {keeper}, 0
    while before != len(family):
        before = len(family)
        family |= {pid for pid, parent in pairs if parent in family}
    return sorted(family)


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize(("kind", "machine", "bits"), [("arm64", "aarch64", 64), ("armhf", "armv7l", 32)])
def test_a_board_is_alone_with_its_python_and_this_machine(cache: Path, kind: str, machine: str, bits: int) -> None:
    unreachable = "OSError: [Errno 101] Network is unreachable"
    with Board(Hardware(kind), cache) as board:
        assert board.run(ASK).splitlines() == [machine, "pi", str(bits), unreachable]


def test_a_disk_outlives_a_power_cut_but_not_its_board(cache: Path) -> None:
    with Board(Hardware(disk_mb=64), cache) as board:
        board.run("echo kept > kept; df -m --output=size / | tail -1")
        board.switch("off")
        with pytest.raises(subprocess.CalledProcessError, match="exit status 255"):
            board.run("true", connect=5)
        board.switch("on")
        assert board.run("cat kept; df -m --output=size / | tail -1").split() == ["kept", "64"]
    with Board(Hardware(), cache) as board:
        assert "kept" not in board.run("ls")


@pytest.mark.parametrize("killed", ["the tests", "the keeper"])
def test_nothing_is_left_of_what_was_killed(cache: Path, killed: str) -> None:
    command = [sys.executable, "-c", START, str(cache)]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as other:
        keeper, address = other.stdout.readline().split()
        family = processes(int(keeper))
        assert len(family) >= 3
        if killed == "the keeper":
            subprocess.run([*AS_ROOT, "kill", "-KILL", keeper], check=True)
            wait_until(lambda: all(map(gone, family)))
        os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: all(map(gone, family)))
    with contextlib.ExitStack() as others:
        number = 0
        while number < number_of(address):  # a lower one may have become free
            board = others.enter_context(Board(Hardware(), cache))
            assert board.run("echo lives") == "lives\n"
            number = number_of(board.address)
    assert left(board.address) == left(address) == []
