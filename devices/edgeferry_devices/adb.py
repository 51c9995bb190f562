"""A device over the Android Debug Bridge, whose program ``adb`` carries commands and files by cable or network."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from edgeferry_devices.adb_states import check_ready, parse_devices
from edgeferry_devices.client import AgentClient
from edgeferry_devices.device import Completed, Say, silent
from edgeferry_devices.inventory import Entry
from edgeferry_devices.knowing.fact import number
from edgeferry_devices.transfer import APPEND, READ, WRITE, check_size
from edgeferry_runtime.errors import DeviceRequirementError, DeviceTimeoutError, UnreachableError
from edgeferry_runtime.undo import undo_on_error

ANSWER_S = 20.0
"""Seconds that adb itself may take to answer; its server has to start first."""
LEAST_BYTES_S = 256 * 1024
"""A slower transfer is given up."""
FEATURE = "shell_v2"
"""What tells exit status, stdout and stderr apart: since Android 7."""


class AdbDevice:
    """A device over adb; nothing is asked of it before it is needed.

    The environment variables of adb count, such as ``ANDROID_ADB_SERVER_PORT``.

    Args:
        entry: Where it is: `Entry.serial`.

    Attributes:
        name: Its name.
        entry: The same, with the folder that is used.
    """

    def __init__(self, entry: Entry) -> None:
        self.name = entry.name
        self.entry = replace(entry, root=entry.folder)
        self._is_known = False
        self._interrupted = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def exec(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """See `Device.exec`."""
        return self._shell(argv, timeout, stdin or b"")

    def put(self, local: Path, remote: str, offset: int = 0) -> int:
        """See `Device.put`."""
        size = local.stat().st_size
        with local.open("rb") as source:
            source.seek(offset)
            argv = ["sh", "-c", APPEND if offset else WRITE, "sh", remote]
            done = self._shell(argv, _patience(size - offset), source)
        self._check_copied(local.name, done)
        check_size(self.name, local, number(done.stdout.decode(errors="replace")))
        return size - offset

    def get(self, remote: str, local: Path) -> None:
        """See `Device.get`."""
        name = Path(remote).name
        told = self.exec(["sh", "-c", 'wc -c <"$1"', "sh", remote])
        self._check_copied(name, told)
        with local.open("wb") as target:
            argv = ["sh", "-c", READ, "sh", remote]
            size = number(told.stdout.decode(errors="replace")) or 0
            self._check_copied(name, self._shell(argv, _patience(size), b"", target))

    def _check_copied(self, name: str, done: Completed) -> None:
        if done.exit_status:
            said = done.stderr.decode(errors="replace").strip().rpartition(": ")[2] or f"status {done.exit_status}"
            fix = "check the free space and the folder's owner there"
            raise DeviceRequirementError(self.name, f"{name} could not be copied ({said})", fix)

    def open_agent(self, formats: Sequence[str] = (), say: Say = silent) -> AgentClient:
        """See `Device.open_agent`: Android has no Python, so there is none.

        Raises:
            DeviceRequirementError: Always.
        """
        fix = "measure by a benchmark_model (ferry profile --benchmark-binary), or add Termux there as an SSH device"
        raise DeviceRequirementError(self.name, "is reached over adb, and Android has no Python for our agent", fix)

    def close(self) -> None:
        """See `Device.close`; adb keeps the connection."""

    def _shell(
        self, argv: Sequence[str], timeout: float, stdin: bytes | IO[bytes], stdout: IO[bytes] | None = None
    ) -> Completed:
        """Run a command in its shell, and see by a mark behind it that it came to its end.

        Without the mark a connection that is lost would look like a command that succeeded and said little.
        """
        self._know()
        mark = f"edgeferry-{secrets.token_hex(8)} "
        line = f'( {shlex.join(argv)} ); s=$?; echo "{mark}$s" >&2; exit $s'
        done = self._adb(["shell", "-T", line], timeout, stdin, stdout)
        said, found, status = done.stderr.rpartition(mark.encode())
        if not found or not status.strip().isdigit():
            self._check_state()
            raise UnreachableError(self.name, f"the connection was lost while running {argv[0]!r}", "try again")
        return Completed(tuple(argv), done.stdout or b"", said, int(status))

    def _know(self) -> None:
        """Make sure that it is there, ready and new enough."""
        if self._is_known:
            return
        self._check_state()
        features = self._adb(["features"], ANSWER_S).stdout.decode(errors="replace").split()
        if FEATURE not in features:
            reason = f"its adb lacks {FEATURE}, so that no exit status can be known (Android 6 or older)"
            raise DeviceRequirementError(self.name, reason, "use a device with Android 7 or newer")
        self._is_known = True

    def _check_state(self) -> None:
        done = self._adb(["devices"], ANSWER_S)
        if done.returncode:
            said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1][:200]
            raise UnreachableError(self.name, f"adb failed: {said}", "run: adb kill-server, then: adb devices")
        check_ready(self.name, self.entry.serial, parse_devices(done.stdout.decode(errors="replace")))

    def interrupt(self) -> None:
        """End whatever goes on there, from another thread; what waits for it raises UnreachableError, now and later."""
        self._interrupted.set()
        if (process := self._process) is not None:
            process.kill()

    def _adb(
        self, arguments: Sequence[str], timeout: float, stdin: bytes | IO[bytes] = b"", stdout: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``adb`` for this device.

        Raises:
            UnreachableError: If it is not installed.
            DeviceTimeoutError: If it does not end in time.
        """
        if self._interrupted.is_set():
            raise UnreachableError(self.name, "was interrupted", "try again")
        argv = ["adb", "-s", self.entry.serial, *arguments]
        given, source = (stdin, subprocess.PIPE) if isinstance(stdin, bytes) else (None, stdin)
        try:
            with (
                subprocess.Popen(
                    argv, stdin=source, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE
                ) as process,
                undo_on_error(process.kill),
            ):
                self._process = process
                if self._interrupted.is_set():
                    process.kill()
                out, err = process.communicate(given, timeout)
        except FileNotFoundError as error:
            fix = "install the Android platform tools (Debian: sudo apt install adb), on the PATH"
            raise UnreachableError(self.name, "the program adb, which reaches it, is not installed", fix) from error
        except subprocess.TimeoutExpired as error:
            reason = f"adb {arguments[0]} did not end within {timeout:g} s"
            fix = "check the cable; where adb itself hangs, run: adb kill-server"
            raise DeviceTimeoutError(self.name, reason, fix) from error
        return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _patience(size: int) -> float:
    """Return the seconds that so many bytes may take."""
    return 60.0 + size / LEAST_BYTES_S
