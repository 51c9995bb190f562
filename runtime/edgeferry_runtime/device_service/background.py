"""A service where there is no systemd: a keeper in the background, which starts the server again after a failure.

The keeper and the server have one session and one group of processes, and hold one lock: as long as it is held, the
group that its file names is theirs, and cannot be another one that was given the same number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeferry_runtime.child import child_command
from edgeferry_runtime.device_service.config import FOLDER, Config, command, patience
from edgeferry_runtime.device_service.keeper import TOLD_BYTES
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.token import VARIABLE
from edgeferry_runtime.store import writing

RUNNING, LOG = "running", "log"
LOCK_TIMEOUT_S = 0.5
"""Whoever looks whether it runs has the lock for a moment."""
KILL_TIMEOUT_S = 10.0
WAKE_TIMEOUT_S = 30.0
POLL_S = 0.05
READ_BYTES = 1 << 16


class Background:
    """The service of one device, as processes of their own.

    Args:
        root: The device's folder.
    """

    name = "background"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER

    def plan(self, config: Config) -> Config:
        """Nothing is made for it outside of our folder."""
        return replace(config, way=self.name)

    def install(self, config: Config) -> Config:
        """There is nothing to be done for it."""
        return config

    def start(self, config: Config) -> None:
        """Begin, where it does not run; it is not waited for until it serves.

        Args:
            config: What it is.

        Raises:
            DeviceRequirementError: If nothing can be written.
            EdgeferryError: If not even the keeper starts.
        """
        with writing(self.root):
            lock = os.open(self.folder / RUNNING, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not _until(lambda: _take(lock, fcntl.LOCK_EX), LOCK_TIMEOUT_S):
                    return  # it runs
                os.pwrite(lock, b" " * TOLD_BYTES, 0)
                self._begin(lock, command(self.root, config.server))
            finally:
                os.close(lock)
        _hold_awake()

    def _begin(self, lock: int, words: Sequence[str]) -> None:
        """Start a keeper, which is given the lock that we hold, and leaves us."""
        argv = child_command("edgeferry_runtime.device_service.keeper", "main", str(lock), str(self.folder), *words)
        log = os.open(self.folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            done = subprocess.run(
                argv,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
                check=False,
            )
        finally:
            os.close(log)
        if done.returncode:
            raise EdgeferryError("the service", "could not be started", "look: ferry service logs")

    def _environment(self) -> dict[str, str]:
        """Have temporary files lie beside the bundles, where nobody else removes them; our own token stays here."""
        ours = {name: value for name, value in os.environ.items() if name != VARIABLE}
        return {**ours, "TMPDIR": str(self.folder)}

    def stop(self) -> None:
        """End it, once what is in flight is finished; what does not end is killed.

        Raises:
            EdgeferryError: If it cannot even be killed.
        """
        for number, seconds in ((signal.SIGTERM, patience(self.root)), (signal.SIGKILL, KILL_TIMEOUT_S)):
            if (group := self._running().get("group")) is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
            if _until(lambda: not self._running(), seconds):
                return
        raise EdgeferryError("the service", "does not end", "restart the device")

    def remove(self, config: Config) -> None:
        """End it; its files lie in our folder."""
        self.stop()

    def pid(self) -> int | None:
        """Return the process that serves, or is about to; None where there is none."""
        told = self._running()
        return told.get("server") or told.get("group")

    def _running(self) -> dict[str, Any]:
        """Return what the keeper wrote; nothing where neither it nor its server is alive."""
        try:
            with (self.folder / RUNNING).open(encoding="utf-8") as file:
                return {} if _take(file.fileno(), fcntl.LOCK_SH) else dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def failure(self) -> str:
        """Say how it failed; nothing where it did not."""
        try:
            told = json.loads((self.folder / RUNNING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "it does not run"
        return str(told.get("failed", "")) or ("" if self.pid() else "it ended")

    def log(self, lines: int) -> list[str]:
        """Return the last lines of what it said."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - READ_BYTES))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []

    def notes(self) -> list[str]:
        """Say what the user should know."""
        if "com.termux" in os.environ.get("PREFIX", "") or "com.termux" in str(self.root):
            wake = "" if shutil.which("termux-wake-lock") else ", and hold the phone awake with termux-wake-lock"
            start = "install Termux:Boot and let it start sshd, then after a reboot: ferry service start"
            return [f"it does not survive a reboot of the phone: {start}{wake}"]
        return ["it does not survive a reboot, since this account has no systemd: then, ferry service start"]


def _hold_awake() -> None:
    """Ask a phone not to sleep, where it can be asked."""
    if program := shutil.which("termux-wake-lock"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [program], stdin=subprocess.DEVNULL, capture_output=True, timeout=WAKE_TIMEOUT_S, check=False
            )


def _take(descriptor: int, kind: int) -> bool:
    """Take the lock of an open file until that is closed, and tell whether that could be.

    Args:
        descriptor: The file.
        kind: ``LOCK_EX`` to run, ``LOCK_SH`` to look: those who look are not in each other's way.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds, and tell whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
