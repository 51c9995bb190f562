"""A service that the account's own systemd keeps: it starts it, watches it, and starts it again after a failure."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

from edgeferry_runtime.device_service.config import FOLDER, Config, command, patience
from edgeferry_runtime.device_service.unit import NAME, owner, unit_text
from edgeferry_runtime.errors import DeviceRequirementError, EdgeferryError
from edgeferry_runtime.whole import whole_file

OLDEST = 244
"""Older ones replace variables in every command line."""
ASK_TIMEOUT_S = 20.0


class Systemd:
    """The service of one device, under the account's systemd.

    Args:
        root: The device's folder.
    """

    name = "systemd"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unit = _units() / NAME

    def plan(self, config: Config) -> Config:
        """Return what will be made for it, to be written down before it is."""
        wants = self.unit.parent / "default.target.wants"
        made = [str(folder) for folder in (wants, *wants.parents) if not folder.exists()]
        return replace(config, way=self.name, made=(*config.made, *made))

    def install(self, config: Config) -> Config:
        """Write the unit and have it started with the machine; return what was made for it.

        Raises:
            DeviceRequirementError: If there is a unit of this name that is not ours, or no unit can be written.
            EdgeferryError: If systemd does not take it.
        """
        self._check_owner()
        words, stop_s = command(self.root, config.server), config.server.stop_s
        self._write(unit_text(self.root, self.root / FOLDER, words, stop_s))
        _do("daemon-reload")
        _do("enable", NAME)
        return replace(config, lingers=config.lingers or (not _lingers() and _linger("enable")))

    def start(self, config: Config) -> None:
        """Begin; it is not waited for."""
        _systemctl("reset-failed", NAME)
        _do("start", "--no-block", NAME)

    def stop(self) -> None:
        """End it, once what is in flight is finished.

        Raises:
            EdgeferryError: If it does not end.
        """
        if self.owned():
            done = _systemctl("stop", NAME, timeout=patience(self.root) + ASK_TIMEOUT_S)
            if _shown("ActiveState") not in ("inactive", "failed"):
                raise _refused("stop", done)

    def remove(self, config: Config) -> None:
        """Undo `install`; what is not ours stays."""
        if self.owned():
            self.stop()
            _systemctl("disable", NAME)
            self.unit.unlink()
            _systemctl("daemon-reload")
            _systemctl("reset-failed", NAME)
        if config.lingers:
            _linger("disable")
        for folder in config.made:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()

    def pid(self) -> int | None:
        """Return the process that serves, or is about to; None where there is none."""
        return int(_shown("MainPID") or 0) or None if self.owned() else None

    def failure(self) -> str:
        """Say how it failed; nothing where it did not."""
        told = dict(line.partition("=")[::2] for line in _show("ActiveState", "SubState", "Result").splitlines())
        failed = told.get("ActiveState") == "failed" or told.get("SubState") == "auto-restart"
        return f"systemd says {told.get('Result')}" if failed else ""

    def log(self, lines: int) -> list[str]:
        """Return the last lines of what it said, as far as this account may read them."""
        argv = ["journalctl", f"--user-unit={NAME}", f"--lines={lines}", "--output=cat", "--no-pager", "--quiet"]
        return _run(argv).stdout.splitlines()

    def notes(self) -> list[str]:
        """Say what the user should know."""
        if _lingers():
            return []
        line = f"sudo loginctl enable-linger {getpass.getuser()}"
        return [f"it ends when the account logs out, and starts when it logs in; to change that, run there: {line}"]

    def owned(self) -> bool:
        """Tell whether there is a unit, and it is that of this device."""
        return self.unit.exists() and self._owner() == str(self.root)

    def _write(self, text: str) -> None:
        try:
            self.unit.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.unit) as file:
                file.write(text.encode("ascii"))
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise DeviceRequirementError(self.unit, reason, "look there who owns its folder") from error

    def _owner(self) -> str:
        return owner(self.unit.read_text(encoding="utf-8", errors="replace"))

    def _check_owner(self) -> None:
        """Refuse a unit of our name that is not ours, or that of another folder.

        Raises:
            DeviceRequirementError: If it is.
        """
        if not self.unit.exists():
            return
        whose = self._owner()
        if not whose:
            raise DeviceRequirementError(self.unit, "is not ours, and stays as it is", "look what it is, and rename it")
        if Path(whose) != self.root:
            fix = "remove that one first: ferry service remove"
            raise DeviceRequirementError(self.unit, f"serves {whose}: an account has one service", fix)


def available() -> bool:
    """Tell whether the account has a systemd that is new enough."""
    found = re.match(r"(\d+)", _show("Version", unit=False).removeprefix("Version="))
    return found is not None and int(found[1]) >= OLDEST


def _units() -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "systemd" / "user"


def _shown(what: str) -> str:
    return _show(what).strip().partition("=")[2]


def _show(*what: str, unit: bool = True) -> str:
    return _systemctl("show", *([NAME] if unit else []), *(f"--property={name}" for name in what)).stdout


def _lingers() -> bool:
    """Tell whether the services of this account run while it is not logged in."""
    return Path("/var/lib/systemd/linger", getpass.getuser()).exists()


def _linger(what: str) -> bool:
    """Try to change that, and tell whether it was allowed; nobody is asked for a password."""
    return _run(["loginctl", "--no-ask-password", f"{what}-linger"]).returncode == 0


def _do(*words: str) -> None:
    """Have systemd do something.

    Raises:
        EdgeferryError: If it refuses.
    """
    done = _systemctl(*words)
    if done.returncode:
        raise _refused(words[0], done)


def _refused(what: str, done: subprocess.CompletedProcess[str]) -> EdgeferryError:
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:200]
    return EdgeferryError("the service", f"systemctl --user {what} failed ({said})", "look: ferry service logs")


def _systemctl(*words: str, timeout: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return _run(["systemctl", "--user", "--no-ask-password", "--quiet", *words], timeout)


def _run(argv: list[str], timeout: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a program of systemd; one that is missing or hangs has failed."""
    own = Path("/run/user", str(os.getuid()))
    environment = dict(os.environ)
    if own.is_dir():
        environment.setdefault("XDG_RUNTIME_DIR", str(own))
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))
