"""Waiting for what a server does, with an end to the patience, and looking at the processes that it began."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0


def until(look: Callable[[], Any]) -> Any:
    """Look again and again until there is something."""
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


async def comes(look: Callable[[], Any]) -> Any:
    """Look again and again until there is something, and let the event loop go on meanwhile."""
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.005)
    return found


def children(of: int | str = "self") -> set[int]:
    """The processes that a process began."""
    found: set[int] = set()
    for file in Path(f"/proc/{of}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found.update(map(int, file.read_text().split()))
    return found
