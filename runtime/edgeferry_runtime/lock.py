"""The one lock of a device: who holds it and for how long; it is broken only when its owner is dead.

The kernel frees it when the process that holds it, an agent of ours, dies. So what can be left behind is an agent whose
host is gone without the device being told, by a line gone dead; a host that knows its own dead asks for its eviction.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgeferry_runtime.errors import DeviceBusyError
from edgeferry_runtime.undo import undo_on_error

FILE = "lock"
AGENT = b"edgeferry_runtime.agent"
POLL_S = 0.05


def acquire(path: Path, owner: str, wait_s: float, who: Mapping[str, Any] | None = None) -> IO[str]:
    """Take the lock; closing the returned file frees it.

    Args:
        path: The lock's file.
        owner: For people: what is done and by whom.
        wait_s: Seconds to wait for another one to end.
        who: For programs: host, user, pid and session of the owner.

    Raises:
        DeviceBusyError: If another one holds it for longer than that; says who and for how long.
    """
    lock = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait_s
    while not _try(lock):
        if time.monotonic() >= deadline:
            lock.close()
            raise DeviceBusyError(path.parent, _who_holds(path), "wait for it to end, then try again")
        time.sleep(POLL_S)
    told = {"owner": owner, **(who or {}), "agent": os.getpid(), "since": time.time(), "uptime": time.monotonic()}
    with undo_on_error(partial(_close, lock)):
        lock.truncate(0)
        lock.write(json.dumps(told))
        lock.flush()
    return lock


def _close(lock: IO[str]) -> None:
    """Let go of a lock; what was written to it may not reach a disk that is full."""
    with contextlib.suppress(OSError):
        lock.close()


def _try(lock: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> dict[str, Any]:
    """Return what the last holder wrote about itself; empty where that cannot be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _who_holds(path: Path) -> str:
    told = holder(path)
    owner, uptime, pid = told.get("owner"), told.get("uptime"), told.get("pid")
    if not owner:
        return "is in use by another command"
    by = f"{owner} (pid {pid} there)" if pid else str(owner)
    if not isinstance(uptime, int | float):
        return f"is in use by {by}"
    return f"is in use by {by} for {max(0.0, time.monotonic() - uptime):.0f} s"


def evict(path: Path, session: str) -> bool:
    """Kill the agent that holds the lock for a session whose host is dead.

    Args:
        path: The lock's file.
        session: The dead session; a lock of any other one is left alone.

    Returns:
        Whether there was such an agent.
    """
    told = holder(path)
    agent = told.get("agent")
    if not session or told.get("session") != session or not isinstance(agent, int) or not _is_agent(agent):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(agent, signal.SIGKILL)
    return True


def _is_agent(pid: int) -> bool:
    """Tell whether a process is an agent of ours, and not this one."""
    try:
        return pid not in (0, 1, os.getpid()) and AGENT in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
