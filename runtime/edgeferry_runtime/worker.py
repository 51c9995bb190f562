"""A process of its own for whatever touches an engine: an engine that dies takes only this process with it.

``python -m edgeferry_runtime.worker`` reads one JSON request on stdin and writes one JSON answer on stdout.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.bundle import Bundle, Probe
from edgeferry_runtime.errors import EdgeferryError, EngineCrashError, EngineError
from edgeferry_runtime.numerics import OutputError, compare_output
from edgeferry_runtime.wire import claim_stdout, encode_error


def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a bundle's probe and compare every output with the golden one; of several signatures each."""
    bundle = Bundle.open(request["bundle"])
    started = time.perf_counter()
    figures: list[OutputError] = []
    samples = 0
    for signature in bundle.manifest.signatures or (None,):
        golden = bundle.probe(signature)
        with bundle.load(signature=signature) as model:
            answers = [model.run(feeds) for feeds in golden.feeds()]
            engine = {"name": model.engine, "version": model.engine_version}
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
        "samples": samples,
        "seconds": time.perf_counter() - started,
    }


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a bundle once on the arrays of one file, and write its outputs to another."""
    feeds = Probe.load(Path(request["feeds"])).inputs
    with Bundle.open(request["bundle"]).load(signature=request.get("signature")) as model:
        outputs = model.run(feeds, raw=request["raw"])
    Probe({}, outputs).save(Path(request["outputs"]))
    return {}


def bench(request: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a bundle."""
    from edgeferry_runtime.benchmark import BenchOptions, bench

    options = BenchOptions(**request["options"])
    profile: dict[str, Any] = bench(Path(request["bundle"]), options, device=request["device"]).to_dict()
    return profile


WORK: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"probe": probe, "run": run, "bench": bench}


def main() -> None:
    """Answer the one request."""
    answers = claim_stdout()
    request = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"result": WORK[request["op"]](request)}
    except EdgeferryError as error:
        answer = {"error": encode_error(error)}
    answers.write(json.dumps(answer).encode())
    answers.close()


def command() -> list[str]:
    """Return the argument list that starts a worker."""
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, "-m", "edgeferry_runtime.worker"]


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


if __name__ == "__main__":
    main()
