"""Which engines a machine has."""

from __future__ import annotations

from pathlib import Path

from edgeferry_runtime.engines.litert import PACKAGES, numpy_conflict
from edgeferry_runtime.engines.litert_compiled import CPUINFO, missing_instructions
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.machine import installed_engines
from edgeferry_runtime.survey.findings import Finding
from edgeferry_runtime.survey.trial import try_out

INTERPRETERS = {
    "ai_edge_litert": "LiteRT Interpreter",
    "tflite_runtime": "tflite_runtime",
    "tensorflow.lite": "TensorFlow Lite",
}
COMPILED = "LiteRT CompiledModel"
INSTALL = "run: pip install 'edgeferry[litert]'"
WAYS_OUT = {
    "ai_edge_litert": INSTALL,
    "tflite_runtime": "only where ai-edge-litert has no wheels (32-bit Arm): pip install tflite-runtime 'numpy<2'",
    "tensorflow.lite": "only where neither of the others can be installed",
}


def try_interpreter(model: Path, name: str) -> Finding:
    """Try one interpreter package; TensorFlow only where none that is preferred to it is installed."""
    version = installed_engines().get(name)
    words = INTERPRETERS[name]
    if version is None:
        return Finding(words, "engine", False, reason="is not installed", fix=WAYS_OUT[name])
    conflict = numpy_conflict(PACKAGES[name][1])
    if conflict:
        return Finding(words, "engine", False, version, reason=conflict, fix="run: pip install 'numpy<2'")
    if name == "tensorflow.lite" and set(installed_engines()) & {"ai_edge_litert", "tflite_runtime"}:
        return Finding(words, "engine", None, version, reason="smaller engines come first")
    return _tried(words, version, model, {"package": name})


def try_compiled(model: Path) -> Finding:
    """Try ``CompiledModel``, but not on cores on which it is known to kill its process."""
    version = installed_engines().get("ai_edge_litert")
    if version is None:
        return Finding(COMPILED, "engine", False, reason="is not installed", fix=INSTALL)
    lacking = missing_instructions(CPUINFO.read_text(errors="replace") if CPUINFO.exists() else "")
    if lacking:
        reason = f"this CPU lacks instructions that it uses ({', '.join(lacking)})"
        return Finding(COMPILED, "engine", False, version, reason=reason, fix="use cpu, which needs none of them")
    return _tried(COMPILED, version, model, {"package": "CompiledModel"})


def _tried(words: str, version: str, model: Path, what: dict[str, str]) -> Finding:
    try:
        try_out(model, what)
    except EngineError as error:
        return Finding(words, "engine", False, version, reason=error.reason, fix=error.fix)
    return Finding(words, "engine", True, version)
