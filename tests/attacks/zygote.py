"""Put doubtful files through the gate and the engine, each in a process forked for it, and tell how that ended.

The engines are imported once; a fork costs milliseconds where an interpreter costs a third of a second. A fork lives
with the limits of `guard.try_in_child`. It stands for two processes: for the caller, who checks the file in Python, and
after that for the child, in which alone an engine sees it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 20
REFUSED, REJECTED, RAN, DIED, HUNG, BAD = "refused", "rejected", "ran", "died", "hung", "BAD"
"""By the check; by the engine; a run; the engine's child died; it was ended at the deadline; and what must never be."""


@dataclass(frozen=True)
class Outcome:
    """How a file ended.

    Attributes:
        kind: One of the words above.
        detail: The error, or the signal.
        peak_bytes: The most memory that was resident.
        checked_s: Seconds of the processor for the check in Python.
        seconds: Seconds in all.
    """

    kind: str
    detail: str
    peak_bytes: int
    checked_s: float
    seconds: float


def warm_up() -> None:
    """Import what every fork needs, while there is one thread only."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import json  # noqa: F401
    import subprocess  # noqa: F401

    from edgeferry_runtime.engines import import_engine

    for format_name in ("tflite", "onnx"):
        import_engine(format_name, Path())


def survive(path: Path, deadline_s: float = DEADLINE_S) -> Outcome:
    """Put one file through it."""
    reading, writing = os.pipe()
    begin = time.perf_counter()
    process = os.fork()
    if not process:
        os.close(reading)
        _be_the_child(path, writing)
    os.close(writing)
    said, over = _read_all(reading, begin + deadline_s)
    os.close(reading)
    if not over:
        os.kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    words = said.decode(errors="replace").splitlines()
    checked = float(words[0]) if words and words[0][:1].isdigit() else -1.0
    kind, detail = _judge(words, checked, status, over)
    return Outcome(kind, detail, usage.ru_maxrss * 1024, checked, time.perf_counter() - begin)


def _judge(words: list[str], checked: float, status: int, over: bool) -> tuple[str, str]:
    last = words[-1].partition(" ") if words else ("", "", "")
    if last[0] in (REFUSED, REJECTED, RAN, BAD):
        return last[0], last[2]
    how = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit status {status >> 8}"
    if checked < 0:
        return BAD, f"{'hung' if not over else how} in the check"
    return (DIED, how) if over else (HUNG, "")


def _read_all(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Read to the end, and tell whether it came in time."""
    said = b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.perf_counter()))[0]:
        more = os.read(descriptor, 4096)
        if not more:
            return said, True
        said += more
    return said, False


def _be_the_child(path: Path, writing: int) -> None:
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)

    def say(text: str) -> None:
        os.write(writing, (" ".join(text.split())[:400] + "\n").encode())

    try:
        say(_check_and_run(path, say))
    except BaseException as error:  # noqa: BLE001 - any other than an expected error is what is looked for
        say(f"{BAD} {type(error).__name__}: {error}")
    os._exit(0)


def _check_and_run(path: Path, say: Callable[[str], None]) -> str:
    from edgeferry_runtime.errors import EdgeferryError, EngineError
    from edgeferry_runtime.feeds import random_feeds, zero_feeds
    from edgeferry_runtime.guard import check_artifact, check_inputs, limit_memory
    from edgeferry_runtime.model import load

    limit_memory(path)
    begin = time.process_time()
    try:
        check_artifact(path)
    except EdgeferryError as error:
        return f"{REFUSED} {type(error).__name__}: {error.reason}"
    say(f"{time.process_time() - begin:.6f}")
    try:
        with load(path, delegate="cpu:1") as model:
            check_inputs(path, model.inputs)
            model.run(zero_feeds(model.inputs), raw=True)
            with contextlib.suppress(EngineError):
                model.run(random_feeds(model.inputs))
    except EdgeferryError as error:
        return f"{REJECTED} {type(error).__name__}: {error.reason}"
    except MemoryError:
        return f"{REJECTED} MemoryError"
    return RAN


if __name__ == "__main__":
    warm_up()
    for name in sys.argv[1:]:
        print(name, survive(Path(name)))
