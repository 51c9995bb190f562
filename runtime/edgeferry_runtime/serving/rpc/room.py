"""How many calls there may be at the same time, and how much of the memory their messages may take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from edgeferry_runtime.serving.refusals import Kind, RefusedError


class Room:
    """Places for calls, and memory for their messages.

    gRPC's own limit of calls is not used: it lets all of them in after it has refused some (grpc/grpc#41531).

    Args:
        calls: How many calls at the same time.
        most: How many bytes their messages may have together.
    """

    def __init__(self, calls: int, most: int) -> None:
        self._calls, self._most = calls, most
        self._taken = self._held = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """Take a place for a call.

        Yields:
            What takes note of how many bytes its messages have in memory from now on; it raises RefusedError, BUSY,
            where there is no room for them.

        Raises:
            RefusedError: BUSY.
        """
        if self._taken >= self._calls:
            raise _busy(f"answers {self._taken} such calls, as many as it takes")
        self._taken += 1
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size and self._held - held + size > self._most:
                raise _busy("holds as many messages as it has memory for")
            self._held += size - held
            held = size

        try:
            yield hold
        finally:
            hold(0)
            self._taken -= 1


def _busy(reason: str) -> RefusedError:
    return RefusedError(Kind.BUSY, "the server", reason, "try again later", retry_after_s=1)
