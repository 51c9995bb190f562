"""A deadline for what paramiko waits for without one: the answer to a request on a channel."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import paramiko


@contextlib.contextmanager
def answer_within(seconds: float, channel: paramiko.Channel) -> Iterator[None]:
    """Close a channel whose request is not answered in time, which ends the wait.

    Raises:
        TimeoutError: If it was not.
    """
    import paramiko

    late = threading.Event()

    def give_up() -> None:
        late.set()
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            channel.close()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (paramiko.SSHException, EOFError, OSError) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
