"""Whether one copy of packed weights can serve several executors of a TFLite file: tried in a child process first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgeferry_runtime.child import child_command
from edgeferry_runtime.codec import encoder
from edgeferry_runtime.engines import Engine, open_engine, parse_delegates
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.litert_native import open_library
from edgeferry_runtime.engines.litert_shared import FIX, open_shared
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.feeds import random_feeds

TRIAL_SECONDS = 120


def check_shareable(path: Path, engine: Engine, delegate: Delegate) -> None:
    """See that it is worth trying to share a file's packed weights.

    Args:
        path: The artifact.
        engine: What has loaded it.
        delegate: Where it executes.

    Raises:
        EngineError: If it is not, with the reason.
    """
    if delegate.kind != "cpu" or engine.name != "ai_edge_litert":
        raise EngineError(path, "is not executed by ai-edge-litert on the CPU", FIX)
    if not hasattr(os, "memfd_create"):
        raise EngineError(path, "needs a file in memory, which this system does not have", FIX)
    specs = (*engine.inputs, *engine.outputs)
    if any(-1 in spec.shape for spec in specs):
        raise EngineError(path, "has inputs or outputs of any size", FIX)
    if any(spec.dtype == "object" for spec in specs):
        raise EngineError(path, "has inputs or outputs of text", FIX)
    open_library(path, engine.version)


def try_sharing(path: Path, engine: Engine) -> None:
    """See in a child process that executors which share a file's packed weights give the interpreter's very answers.

    Args:
        path: The verified artifact.
        engine: What has loaded it in an interpreter.

    Raises:
        EngineError: If they do not, with the reason.
    """
    delegate = parse_delegates(engine.execution.delegate)[0]
    check_shareable(path, engine, delegate)
    command = child_command(__name__, "trial", str(path), str(delegate), engine.signature)
    try:
        done = subprocess.run(command, capture_output=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(path, f"did not open and run shared within {TRIAL_SECONDS} s", FIX) from None
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()
        raise EngineError(path, said or f"ends the process with status {done.returncode} when it is shared", FIX)


def trial(path: str, delegate: str, signature: str) -> int:
    """Be the child: compare two shared executors with the interpreter, and print what speaks against them."""
    file, place = Path(path), parse_delegates(delegate)[0]
    try:
        engine = open_engine("tflite", file, (place,), signature or None)
        real = random_feeds(engine.inputs)
        feeds = [encoder(spec, False)(real[spec.name]) for spec in engine.inputs]
        expected = engine.run(feeds)
        for shared in open_shared(file, engine, place, 2):
            for spec, a, b in zip(engine.outputs, expected, shared.run(feeds), strict=True):
                if a.shape != b.shape or a.tobytes() != b.tobytes():
                    raise EngineError(path, f"gives another {spec.name} than in an interpreter when it is shared", FIX)
    except EngineError as error:
        sys.stdout.write(error.reason)
        return 1
    return 0
