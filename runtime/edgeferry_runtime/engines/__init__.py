"""Engines: what executes an artifact. One file per engine, found by the artifact's format."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Delegate:
    """Where an engine executes.

    Grammar: ``cpu`` or ``cpu:THREADS``.

    Attributes:
        kind: ``cpu``.
        threads: Worker threads; None leaves the engine's default.
    """

    kind: str = "cpu"
    threads: int | None = None

    @classmethod
    def parse(cls, text: str) -> Delegate:
        """Read the grammar.

        Raises:
            UnknownNameError: For a kind that this version does not have.
            UsageError: For a thread count that is no positive integer.
        """
        kind, colon, count = text.partition(":")
        if kind not in DELEGATES:
            raise UnknownNameError("--delegate", kind, DELEGATES)
        if not colon:
            return cls(kind)
        if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= 1024:
            raise UsageError(f"--delegate {text}", f"{count!r} is no thread count", "give a number, such as cpu:4")
        return cls(kind, int(count))

    def __str__(self) -> str:
        return self.kind if self.threads is None else f"{self.kind}:{self.threads}"


DELEGATES = ("cpu",)


class Engine(Protocol):
    """One artifact, loaded.

    Attributes:
        name: The engine's import name, such as ``ai_edge_litert`` or ``onnxruntime``.
        version: Its version.
        inputs: The artifact's inputs in the order that `run` takes them.
        outputs: The artifact's outputs in the order that `run` gives them.
        signature: The name of the signature that inputs, outputs and `run` belong to; empty where there is none.
        signatures: The names of all signatures in the artifact.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    signature: str
    signatures: tuple[str, ...]

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        """Execute once on stored values that already fit `inputs`; the outputs belong to the caller."""
        ...


MODULES: Mapping[str, str] = {
    "tflite": "edgeferry_runtime.engines.litert",
    "onnx": "edgeferry_runtime.engines.onnxruntime",
}
"""The module of the engine for each artifact format.

It defines ``open_engine(path, delegate, signature) -> Engine``, which loads a verified artifact, and
``import_engine(path)``.
"""


def open_engine(format_name: str, path: Path, delegate: Delegate, signature: str | None = None) -> Engine:
    """Load an artifact into the engine of its format.

    Args:
        format_name: ``tflite`` or ``onnx``.
        path: The artifact.
        delegate: Where to execute.
        signature: Which of the artifact's signatures to run; None takes the primary one.

    Raises:
        UnknownNameError: If the artifact has no such signature.
        MissingExtraError: If the engine is not installed.
        EngineError: If it refuses the artifact.
    """
    engine: Engine = importlib.import_module(MODULES[format_name]).open_engine(path, delegate, signature)
    return engine


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
