"""A measurement in a process of its own: nothing that this one has loaded, cached or fragmented is measured with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from edgeferry_runtime.measurement.local import Say, silent
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.wire import decode_error
from edgeferry_runtime.worker import command, death


def bench_fresh(
    path: str | os.PathLike[str], options: BenchOptions = DEFAULTS, *, device: str = "local", say: Say = silent
) -> Profile:
    """Measure a bundle or an artifact in a fresh process; see `edgeferry_runtime.measurement.local.bench`.

    The process is a `edgeferry_runtime.worker`, as on a device. It ends with this one, however that ends.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        options: How to measure.
        device: The name that the profile gives this machine.
        say: Takes progress, where there is any to tell.

    Raises:
        EdgeferryError: What `bench` raises, of the same class.
        EngineCrashError: If the process dies.
    """
    request = {"op": "bench", "options": asdict(options), "device": device}
    return Profile.from_dict(ask(path, request, say))


def ask(path: str | os.PathLike[str], request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Have a request done by a fresh worker, and return its result.

    Args:
        path: A bundle's folder, or an artifact.
        request: What the worker is to do with it.
        say: Takes progress, and what the worker left on stderr.

    Raises:
        EdgeferryError: What the worker raised, of the same class.
        EngineCrashError: If it dies.
    """
    request = {**request, "bundle": os.path.abspath(path), "attended": True}  # noqa: PTH100
    with tempfile.TemporaryFile() as said, _process(said) as child:
        assert child.stdin and child.stdout
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        answer: dict[str, Any] = {}
        for message in child.stdout:
            answer = json.loads(message)
            if "progress" in answer:
                say(answer["progress"])
        status = child.wait()
        said.seek(0)
        left = said.read().decode(errors="replace")
    if status or not {"result", "error"} & set(answer):
        raise death(path, status, left)
    for line in left.splitlines():
        say(line)
    if "error" in answer:
        raise decode_error(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


@contextlib.contextmanager
def _process(said: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker that is gone when the block is left, with every process that it began.

    Ctrl-C reaches this process alone, which then ends them.
    """
    with subprocess.Popen(
        command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
