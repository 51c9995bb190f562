"""Files that a process may have open: each connection is one."""

from __future__ import annotations

import contextlib
import resource

SPARE = 256
"""Open files of everything but connections: models, libraries, gRPC, children."""


def make_room(connections: int) -> int:
    """Raise the soft limit on open files as far as is allowed and needed.

    Args:
        connections: How many are wanted.

    Returns:
        How many there is room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if 0 <= soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections if soft < 0 else max(1, min(connections, soft - SPARE))
