"""Emulated boards as the tests see them: real sshd on an address of their own, the user `pi`, and a power switch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import recipe

KEEPER = Path(__file__).with_name("keeper.py")
AS_ROOT = () if os.getuid() == 0 else ("sudo", "-n")


@dataclass(frozen=True)
class Hardware:
    """What a board is.

    Attributes:
        kind: ``arm64`` or ``armhf``.
        cpu: The core that QEMU emulates: ``cortex-a72`` is a Pi 4, ``cortex-a76`` a Pi 5. Empty: as the kind has it.
        disk_mb: How much may be written to it.
        memory_mb: At which it runs out of memory, the disk's content counted; 0 for no limit.
    """

    kind: str = "arm64"
    cpu: str = ""
    disk_mb: int = 1024
    memory_mb: int = 0


def number_of(address: str) -> int:
    """Return the number of the board with an address: what is its own on this machine is named by it."""
    return int(address.split(".")[2])


class Board:
    """A board that is on. Closed, or when this process ends in whatever way, nothing is left of it."""

    def __init__(self, hardware: Hardware, cache: Path) -> None:
        kind, folder = recipe.KINDS[hardware.kind], recipe.built(cache)
        self.key = folder / "key" / "id_ed25519"
        made = {"root": str(folder / hardware.kind), "emulator": str(folder / "qemu" / kind.emulator), "elf": kind.elf}
        spec = {**asdict(hardware), **made, "cpu": hardware.cpu or kind.cpu}
        private = ["unshare", "--mount", "--propagation", "private", sys.executable, str(KEEPER), json.dumps(spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.keeper = subprocess.Popen([*AS_ROOT, *private], start_new_session=True, text=True, **pipes)
        self.address = ""
        self.switch("on")

    def switch(self, to: str) -> None:
        """Switch the power ``on`` or ``off``; the disk stays what it is."""
        self.keeper.stdin.write(f"{to}\n")
        self.keeper.stdin.flush()
        answer = self.keeper.stdout.readline()
        if not answer:
            raise RuntimeError(f"the board could not be switched {to}: its keeper ended with {self.keeper.wait()}")
        self.address = json.loads(answer).get("address", self.address)

    def run(self, command: str, timeout: float = 60, connect: int = 30) -> str:
        """Run a command line on the board, as `pi`, and return what it printed."""
        trusting = "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"
        options = [f"-o{option}" for option in (*trusting, f"ConnectTimeout={connect}")]
        typed = ["ssh", "-F", "none", "-i", str(self.key), *options]
        done: subprocess.CompletedProcess[Any] = subprocess.run(
            [*typed, f"pi@{self.address}", command], capture_output=True, text=True, timeout=timeout, check=True
        )
        return str(done.stdout)

    def close(self) -> None:
        """End the board."""
        self.keeper.stdin.close()
        self.keeper.wait(timeout=30)
        self.keeper.stdout.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
