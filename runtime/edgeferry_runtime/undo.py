"""The way back from what is only half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def undo_on_error(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` where the body ends by an error, Ctrl-C among them, which then goes on."""
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()
