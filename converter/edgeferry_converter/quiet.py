"""Keeps training frameworks quiet, and turns whatever they raise into one clear error.

TensorFlow's converter, litert-torch and the quantizers write to file descriptors 1 and 2 from C++ and from
Python. `quiet` catches both below Python. A command that was given ``-v`` sets the verbosity once, with
``with loud(): ...`` or ``VERBOSE.set(True)``; then everything passes through.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType, ModuleType, TracebackType

from edgeferry_runtime.errors import ConversionError, EdgeferryError, MissingExtraError

VERBOSE: ContextVar[bool] = ContextVar("edgeferry_verbose", default=False)
"""Whether the frameworks may speak."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PREAMBLE = "Exception encountered when calling"
"""What Keras puts before the message of every failed call."""
EXPORTER = "## Exception summary"
"""What torch.onnx puts before the lines that tell what failed; above it stands advice for its developers."""


class Noise:
    """What was said during `quiet`; complete once it has ended.

    Attributes:
        text: Everything written to stdout and stderr; empty where it was let through.
    """

    def __init__(self) -> None:
        self.text = ""

    def tail(self, limit: int = 300) -> str:
        """Return the end of the last line that says something, at most `limit` characters."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][-limit:] if lines else ""


@contextlib.contextmanager
def loud() -> Iterator[None]:
    """Let frameworks speak inside this block: what ``-v`` asks for."""
    token = VERBOSE.set(True)
    try:
        yield
    finally:
        VERBOSE.reset(token)


@contextlib.contextmanager
def quiet(*, verbose: bool | None = None) -> Iterator[Noise]:
    """Catch what is written to file descriptors 1 and 2, by C++ and child processes too, and drop warnings.

    Descriptors belong to the whole process, so other threads are caught as well while the block runs.

    Args:
        verbose: True lets everything through, False nothing; None asks `VERBOSE`.

    Yields:
        The noise, whose text can be read once the block has ended, even by an exception.
    """
    noise = Noise()
    with warnings.catch_warnings():
        if VERBOSE.get() if verbose is None else verbose:
            warnings.simplefilter("default")
            yield noise
            return
        warnings.simplefilter("ignore")
        with tempfile.TemporaryFile() as file:
            try:
                with _descriptors_to(file.fileno()), _python_streams_to_descriptors():
                    yield noise
            finally:
                file.seek(0)
                noise.text = file.read().decode(errors="replace")


@contextlib.contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in saved:
            os.dup2(target, descriptor)
        yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _python_streams_to_descriptors() -> Iterator[None]:
    """Point sys.stdout and sys.stderr at the descriptors, wherever a notebook or a test had pointed them.

    The streams stay open afterwards, because log handlers made inside the block keep them.
    """
    out = open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
    err = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class foreign(contextlib.AbstractContextManager[Noise]):  # noqa: N801
    """Run a framework's code: quietly, and with every failure of it turned into one error.

    Frameworks raise anything, and some exit, so anything but our own errors and Ctrl-C is taken. The cause keeps
    the traceback. Ctrl-C stays Ctrl-C even where C++ made an error of it, or swallowed it.

    Args:
        subject: The file or thing that it works on.
        failed: What did not succeed, such as ``TensorFlow could not convert it``.
        fix: The way out.
        error: What to raise.
    """

    def __init__(
        self,
        subject: object,
        failed: str,
        fix: str = "run again with -v to see all that it says",
        error: type[EdgeferryError] = ConversionError,
    ) -> None:
        self.subject, self.failed, self.fix, self.error = subject, failed, fix, error

    def __enter__(self) -> Noise:
        self._presses = _Presses()
        self._quiet = quiet()
        self._noise = self._quiet.__enter__()
        return self._noise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.__exit__(kind, error, trace)
        if self._presses.end() and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        if isinstance(error, Exception | SystemExit) and not isinstance(error, EdgeferryError):
            raise self.error(self.subject, f"{self.failed} ({summary(error, self._noise)})", self.fix) from error


class _Presses:
    """Notes Ctrl-C from the moment it is made, beside what it does anyway; in other threads it never arrives."""

    def __init__(self) -> None:
        self._noted = False
        self._handler = None
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        assert callable(self._handler)
        self._handler(number, frame)

    def end(self) -> bool:
        """Stop noting, and return whether it was pressed."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        return self._noted


def summary(error: BaseException, noise: Noise | None = None) -> str:
    """Say an exception in one line: its type and first line that tells something, or else what was said last."""
    plain = COLOURS.sub("", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if EXPORTER in lines[:-1]:
        lines = lines[lines.index(EXPORTER) + 1 :]
    telling = [line for line in lines if not line.startswith(PREAMBLE)] or lines
    said = telling[0][:300] if telling else (noise.tail() if noise else "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of this block; in other threads, which it never reaches, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed and callable(handler):
            handler(*pressed[-1])


def require(subject: object, extra: str, module: str) -> ModuleType:
    """Import a framework quietly, and whole: Ctrl-C waits for its end, where a framework in C++ would abort.

    Args:
        subject: What needs it, for the error.
        extra: The extra of the ``edgeferry`` distribution that brings it.
        module: The module's dotted name.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        with quiet(), uninterrupted():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(subject, extra, error.name or module) from error
