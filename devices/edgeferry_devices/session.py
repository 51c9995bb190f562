"""Who holds a device: a session of this host, which its locked file tells from one that is dead."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeferry_devices.places import state_dir


def owner() -> str:
    """Return who we are, for the lock of a device."""
    return f"{getpass.getuser()}@{platform.node()}"


@dataclass(frozen=True)
class Session:
    """One conversation with a device; the kernel unlocks its file when this process ends, however it ends.

    Attributes:
        path: Its file, named by the session.
        file: The same, open and locked.
    """

    path: Path
    file: IO[str]

    @classmethod
    def begin(cls) -> Session:
        """Make a session of a name that no other one has."""
        path = _folder() / uuid.uuid4().hex
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
        take_lock(file)
        return cls(path, file)

    def who(self) -> dict[str, Any]:
        """Return what a device's lock is told of us."""
        return {
            "user": getpass.getuser(),
            "host": platform.node(),
            "pid": os.getpid(),
            "session": self.path.name,
        }

    def close(self, left_behind: bool) -> None:
        """End it; its file stays where an agent may have been left behind that holds a device in its name."""
        if not left_behind:
            self.path.unlink(missing_ok=True)
        self.file.close()


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Tell whether the owner of a lock was a process of this host, and has ended; of other hosts nothing is known."""
    session = holder.get("session")
    if not isinstance(session, str) or not session.isalnum() or holder.get("host") != platform.node():
        return False
    path = _folder() / session
    with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as file:
        if take_lock(file):
            path.unlink(missing_ok=True)
            return True
    return False


def _folder() -> Path:
    return state_dir() / "sessions"


def take_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed, or this process ends, and tell whether no other one holds it."""
    try:
        import fcntl
    except ImportError:  # a host without it cannot tell its dead
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
