"""Trying one engine or delegate on a tiny model, in a child process that may die of it."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.wire import decode_error
from edgeferry_runtime.worker import command, death

TIMEOUT_S = 60


def try_out(model: Path, what: Mapping[str, str]) -> dict[str, Any]:
    """Have a child process try something.

    Args:
        model: The tiny model.
        what: ``delegate``: load the model with it and run it. ``package``: the same with that interpreter package.
            ``library``: load the library of that delegate.

    Returns:
        ``engine`` and its ``version``, ``processor`` in words, and ``providers`` of ONNX Runtime, where they are known.

    Raises:
        EngineError: If it cannot be used, its process dies, or it does not answer in time.
    """
    request = json.dumps({"op": "try", "bundle": str(model), **what}).encode() + b"\n"
    name = next(iter(what.values()))
    try:
        done = subprocess.run(command(), input=request, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(name, f"did not answer within {TIMEOUT_S} s", "see whether its driver hangs") from None
    if done.returncode or not done.stdout:
        raise death(name, done.returncode, done.stderr.decode(errors="replace"))
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise decode_error(answer["error"])
    found: dict[str, Any] = answer["result"]
    return found


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Be the child."""
    path = Path(request["bundle"])
    if "package" in request:
        return _package(path, request["package"])
    if "library" in request:
        return _library(path, request["library"])
    return _delegate(path, request["delegate"])


def _delegate(path: Path, text: str) -> dict[str, Any]:
    from edgeferry_runtime.engines import open_engine, parse_delegates
    from edgeferry_runtime.feeds import zero_feeds

    engine = open_engine(path.suffix[1:], path, parse_delegates(text), tried=True)
    feeds = zero_feeds(engine.inputs)
    engine.run([feeds[spec.name] for spec in engine.inputs])
    found = {"engine": engine.name, "version": engine.version, "processor": engine.execution.processor}
    engine.close()
    if path.suffix == ".onnx":
        from edgeferry_runtime.engines.onnxruntime import import_engine

        return {**found, "providers": import_engine(path).get_available_providers()}
    return found


def _package(path: Path, name: str) -> dict[str, Any]:
    """Try LiteRT's ``CompiledModel``, or one of the interpreters, whichever of them is preferred."""
    from edgeferry_runtime.engines.litert import PACKAGES
    from edgeferry_runtime.engines.litert_refusals import REFUSALS

    try:
        if name == "CompiledModel":
            litert = importlib.import_module("ai_edge_litert.compiled_model")
            litert.CompiledModel.from_file(str(path), hardware_accel=litert.HardwareAccelerator.CPU)
        else:
            interpreter = importlib.import_module(PACKAGES[name][0]).Interpreter(str(path))
            interpreter.allocate_tensors()
            interpreter.invoke()
    except (ImportError, AttributeError, *REFUSALS) as error:
        reason = f"cannot be used ({' '.join(str(error).split())[:300]})"
        raise EngineError(name, reason, "install a build of it for this system") from error
    return {}


def _library(path: Path, text: str) -> dict[str, Any]:
    from edgeferry_runtime.engines import Delegate
    from edgeferry_runtime.engines.litert import import_engine
    from edgeferry_runtime.engines.litert_library import load_library

    load_library(Delegate.parse(text), import_engine(path).load_delegate)
    return {}
