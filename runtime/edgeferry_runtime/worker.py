"""A process of its own for whatever touches an engine: an engine that dies takes only this process with it.

It reads one JSON request, a line on stdin, and writes one JSON answer on stdout. An attended one, whose request says
so, writes its progress before, an object a line, and ends at once when stdin is closed: nobody waits for it any more.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgeferry_runtime.bundle import Bundle, Probe
from edgeferry_runtime.child import child_command
from edgeferry_runtime.errors import EdgeferryError, EngineCrashError, EngineError
from edgeferry_runtime.numerics import OutputError, compare_output
from edgeferry_runtime.wire import claim_stdout, encode_error

if TYPE_CHECKING:
    from edgeferry_runtime.engines import Execution

Say = Callable[[str], None]


def probe(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Run a bundle's probe and compare every output with the golden one; of several signatures each."""
    import numpy as np

    bundle = Bundle.open(request["bundle"])
    started = time.perf_counter()
    figures: list[OutputError] = []
    executions: list[Execution] = []
    samples = 0
    for signature in bundle.manifest.signatures or (None,):
        golden = bundle.probe(signature)
        asked = {"delegate": request["delegate"], "require_full_delegation": request["full"]}
        with bundle.load(signature=signature, **asked) as model:
            answers = [model.run(feeds) for feeds in golden.feeds()]
            engine = {"name": model.engine, "version": model.engine_version}
            executions.append(model.execution)
        found = (
            compare_output(name, reference, np.stack([answer[name] for answer in answers]))
            for name, reference in golden.outputs.items()
        )
        figures += [figure.of(signature) for figure in found]
        samples += len(golden)
    return {
        "figures": [f.to_dict() for f in figures],
        "violations": [v for f in figures for v in bundle.manifest.tolerance.violations(f)],
        "engine": engine,
        "delegate": request["delegate"],
        "execution": max(executions, key=lambda execution: len(execution.fallbacks)).to_dict(),
        "samples": samples,
        "seconds": time.perf_counter() - started,
    }


def run(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Run a bundle once on the arrays of one file, and write its outputs to another."""
    feeds = Probe.load(Path(request["feeds"])).inputs
    with Bundle.open(request["bundle"]).load(signature=request.get("signature")) as model:
        outputs = model.run(feeds, raw=request["raw"])
    Probe({}, outputs).save(Path(request["outputs"]))
    return {}


def bench(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Measure a bundle or an artifact."""
    from edgeferry_runtime.measurement.local import bench
    from edgeferry_runtime.measurement.options import BenchOptions

    options = BenchOptions(**request["options"])
    profile: dict[str, Any] = bench(Path(request["bundle"]), options, device=request["device"], say=say).to_dict()
    return profile


def operators(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Measure time per operator."""
    from edgeferry_runtime.measurement.operators import operators
    from edgeferry_runtime.measurement.options import BenchOptions

    return operators(Path(request["bundle"]), BenchOptions(**request["options"])).to_dict()


def try_out(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Try an engine or a delegate."""
    from edgeferry_runtime.survey.trial import answer

    return answer(request)


WORK: Mapping[str, Callable[[Mapping[str, Any], Say], dict[str, Any]]] = {
    **{"probe": probe, "run": run, "bench": bench, "operators": operators, "try": try_out}
}


def main() -> None:
    """Answer the one request."""
    answers = claim_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    attended = request.get("attended", False)
    if attended:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        result = WORK[request["op"]](request, lambda text: _write(answers, {"progress": text}) if attended else None)
        answer: dict[str, Any] = {"result": result}
    except EdgeferryError as error:
        answer = {"error": encode_error(error)}
    _write(answers, answer)
    answers.close()


def _write(answers: BinaryIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def _end_with_stdin() -> None:
    """Wait for the end of stdin, which costs the measured runs nothing, and end the process and those that it began."""
    os.read(0, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def command() -> list[str]:
    """Return the argument list that starts a worker."""
    return child_command(__name__, "main")


def death(subject: object, status: int, stderr: str) -> EngineError:
    """Say why a worker ended without an answer.

    Args:
        subject: What it was working on.
        status: Its exit status; negative, or above 128, where a signal killed it.
        stderr: What it left on stderr.
    """
    number = -status if status < 0 else status - 128
    reasons = {
        signal.SIGILL: (
            "this CPU lacks instructions that the engine was built with",
            "use another engine version or device",
        ),
        signal.SIGKILL: (
            "the process was killed, most likely for want of memory",
            "use a smaller model, or free memory",
        ),
    }
    if number in reasons:
        return EngineCrashError(subject, *reasons[signal.Signals(number)])
    said = (stderr.strip().splitlines() or ["it printed nothing"])[-1][:300]
    if number > 0 and number in set(signal.Signals):
        name = signal.Signals(number).name
        return EngineCrashError(
            subject, f"the engine crashed with {name} ({said})", "convert the source again, or use the other format"
        )
    return EngineError(subject, f"the engine's process ended with status {status}: {said}", "see the reason above")
