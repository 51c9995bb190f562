"""What a TFLite interpreter says where it refuses a file or a run, turned into one line."""

from __future__ import annotations

import re
from pathlib import Path

from edgeferry_runtime.errors import EngineError

REFUSALS = (ValueError, RuntimeError, MemoryError)
"""What an interpreter raises where it refuses a file or a run."""

CUSTOM = re.compile(r"unresolved custom op: (.+?)\.(?: |$)")
VERSION = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
OPERATOR = re.compile(r"Op builtin_code out of range: (\d+)")
NEWER = "run it with a newer ai-edge-litert"


def refusal(path: Path, error: BaseException, engine: str = "LiteRT") -> EngineError:
    """Say in one line why an interpreter refused a file or a run.

    Args:
        path: The artifact.
        error: What it raised, of `REFUSALS`.
        engine: Its name, with its version where a newer one might have what is missing.
    """
    text = " ".join(str(error).split())
    if custom := CUSTOM.search(text):
        reason = f"needs the custom operator {custom[1]}, which LiteRT does not have"
        return EngineError(path, reason, "convert the source without it")
    if version := VERSION.search(text):
        return EngineError(path, f"needs {version[1]} version {version[2]}, which {engine} does not have", NEWER)
    if operator := OPERATOR.search(text):
        return EngineError(path, f"needs operator {operator[1]} of the schema, which {engine} does not have", NEWER)
    return EngineError(path, f"LiteRT refuses it: {text[:300]}", "convert the source again")
