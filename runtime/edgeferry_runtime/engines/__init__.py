"""Engines: what executes an artifact. One file per engine, found by the artifact's format."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edgeferry_runtime.engines.delegate import Delegate, parse_delegates
from edgeferry_runtime.engines.execution import Execution, LeftBehind
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.tensors import Array, TensorSpec

__all__ = ["Delegate", "Engine", "Execution", "LeftBehind", "import_engine", "open_engine", "parse_delegates"]


class Engine(Protocol):
    """One artifact, loaded.

    Attributes:
        name: The engine's import name, such as ``ai_edge_litert`` or ``onnxruntime``.
        inputs: The artifact's inputs in the order that `run` takes them.
        outputs: The artifact's outputs in the order that `run` gives them.
        signature: The name of the signature that inputs, outputs and `run` belong to; empty where there is none.
        signatures: The names of all signatures in the artifact.
        execution: What really executes it.
        concurrent: Whether several threads may call `run` at once.
        stateful: Whether the artifact keeps something between runs.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    signature: str
    signatures: tuple[str, ...]
    execution: Execution
    concurrent: bool
    stateful: bool

    @property
    def version(self) -> str:
        """The engine's version."""
        ...

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        """Execute once on stored values that already fit `inputs`; the outputs belong to the caller."""
        ...

    def reset(self) -> None:
        """Set what the artifact keeps between runs back to what it begins with; `run` may be another one then."""
        ...

    def close(self) -> None:
        """Free the native memory; a second time does nothing. Nothing else may be called afterwards."""
        ...


MODULES: Mapping[str, str] = {
    "tflite": "edgeferry_runtime.engines.litert",
    "onnx": "edgeferry_runtime.engines.onnxruntime",
}
"""The module of the engine for each artifact format.

It defines ``open_engine(path, delegate, signature) -> Engine``, which loads a verified artifact with one delegate or
raises EngineError, and ``import_engine(path)``.
"""


def open_engine(
    format_name: str,
    path: Path,
    delegates: Sequence[Delegate] = (Delegate(),),
    signature: str | None = None,
    *,
    tried: bool = False,
) -> Engine:
    """Load an artifact into the engine of its format, with the first of the delegates that can execute it.

    Whatever is not the plain CPU runs code that may kill its process, so it is tried in a child process first.

    Args:
        format_name: ``tflite`` or ``onnx``.
        path: The artifact.
        delegates: Where to execute, in the order of preference.
        signature: Which of the artifact's signatures to run; None takes the primary one.
        tried: Whether that was done, or this process is the child.

    Raises:
        UnknownNameError: If the artifact has no such signature.
        MissingExtraError: If the engine is not installed.
        EngineError: If it refuses the artifact, or none of the delegates can be used.
    """
    asked = ",".join(map(str, delegates))
    failures: list[EngineError] = []
    for delegate in delegates:
        try:
            engine = _open_with(format_name, path, delegate, signature, tried=tried or delegate.is_plain_cpu)
        except EngineError as error:
            failures.append(error)
            continue
        reasons = tuple(f"{d}: {error.reason}" for d, error in zip(delegates, failures, strict=False))
        engine.execution = replace(engine.execution, asked=asked, fallbacks=reasons)
        return engine
    raise _refusal(path, delegates, failures)


def _open_with(format_name: str, path: Path, delegate: Delegate, signature: str | None, *, tried: bool) -> Engine:
    if not tried:
        from edgeferry_runtime.guard import try_in_child

        try_in_child(path, delegate=str(delegate))
    engine: Engine = importlib.import_module(MODULES[format_name]).open_engine(path, delegate, signature)
    return engine


def _refusal(path: Path, delegates: Sequence[Delegate], failures: Sequence[EngineError]) -> EngineError:
    if len(failures) == 1:
        return failures[0]
    reasons = "; ".join(f"{d}: {error.reason}" for d, error in zip(delegates, failures, strict=True))
    return EngineError(path, f"runs on none of the delegates ({reasons})", failures[-1].fix)


def import_engine(format_name: str, path: Path) -> None:
    """Import the engine of a format, so that loading can be measured without it.

    Args:
        format_name: ``tflite`` or ``onnx``.
        path: The artifact that needs it, for the error.

    Raises:
        MissingExtraError: If the engine is not installed.
        EngineError: If it is, and cannot be imported.
    """
    importlib.import_module(MODULES[format_name]).import_engine(path)
