"""What a machine can execute with, and why not with the rest: all is tried on a tiny model, in child processes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgeferry_runtime import machine
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.onnx_providers import PROVIDERS, choose
from edgeferry_runtime.errors import EdgeferryError, EngineError
from edgeferry_runtime.survey import edgetpu
from edgeferry_runtime.survey.engines import INTERPRETERS, try_compiled, try_interpreter
from edgeferry_runtime.survey.findings import Finding, Survey
from edgeferry_runtime.survey.tiny import write_models
from edgeferry_runtime.survey.trial import try_out

__all__ = ["Finding", "Survey", "survey"]

ONNX = "ONNX Runtime"
WAYS_OUT = {
    "gpu": "install a driver for Vulkan 1.3, such as Debian's mesa-vulkan-drivers, and ai-edge-litert 2 or newer",
    "npu": "install the dispatch library of the NPU's maker where LiteRT looks for it",
}
"""Of LiteRT's accelerators, whose errors say what a user who wants to run a model can do instead."""
SETUP = "install what the provider needs: https://onnxruntime.ai/docs/execution-providers"


def survey() -> Survey:
    """Try every engine and delegate of this machine; none is imported into this process."""
    with tempfile.TemporaryDirectory(prefix="edgeferry-") as folder, ThreadPoolExecutor(4) as pool:
        models = write_models(Path(folder))
        onnx = pool.submit(_try_delegate, models["onnx"], "cpu")
        gpu, npu = (pool.submit(_try_delegate, models["tflite"], kind) for kind in ("gpu", "npu"))
        cpu = pool.submit(_try_delegate, models["tflite"], "cpu")
        units = [pool.submit(_try_edgetpu, models["tflite"], bus) for bus in ("usb", "pci")]
        interpreters = [pool.submit(try_interpreter, models["tflite"], name) for name in INTERPRETERS]
        compiled = pool.submit(try_compiled, models["tflite"])
        runtime, found = onnx.result()
        providers = _providers(models["onnx"], found.get("providers", ()), pool)
        engines = (interpreters[0].result(), compiled.result(), *(i.result() for i in interpreters[1:]))
        tflite = (cpu.result()[0], gpu.result()[0], npu.result()[0], *(unit.result() for unit in units))
    return Survey((*engines, _runtime(runtime, found)), (*tflite, runtime, *providers), machine.describe())


def _try_delegate(model: Path, delegate: str) -> tuple[Finding, dict[str, Any]]:
    """Try one delegate, and return what was found with what the child told."""
    kind = model.suffix[1:]
    try:
        found = try_out(model, {"delegate": delegate})
    except EdgeferryError as error:
        return Finding(delegate, kind, False, reason=error.reason, fix=_way_out(kind, delegate, error)), {}
    cores = f"; {machine.cores()} cores" if delegate == "cpu" else ""
    return Finding(delegate, kind, True, detail=f"{found['processor']}{cores}"), found


def _way_out(kind: str, delegate: str, error: EdgeferryError) -> str:
    """Say what to install, where installing helps."""
    if delegate == "cpu" or "install" in error.fix or "CPU lacks instructions" in error.reason:
        return error.fix
    return WAYS_OUT.get(delegate, SETUP) if kind == "tflite" else SETUP


def _try_edgetpu(model: Path, bus: str) -> Finding:
    """Look for units first; their library is loaded in any case, since both may be lacking."""
    name = f"edgetpu:{bus}"
    units = edgetpu.usb_units() if bus == "usb" else edgetpu.pci_units()
    found = edgetpu.lack(bus, units)
    lacks = [found] if found else []
    try:
        try_out(model, {"library": name})
    except EdgeferryError as error:
        if not (lacks and "finds no such Edge TPU" in error.reason):
            lacks.append((error.reason, error.fix.partition(", or name a fallback")[0]))
    if not lacks:
        return Finding(name, "tflite", True, detail=f"Edge TPU, {', '.join(str(unit.node) for unit in units)}")
    reasons, fixes = ("; ".join(words) for words in zip(*lacks, strict=True))
    return Finding(name, "tflite", False, reason=reasons, fix=fixes)


def _runtime(cpu: Finding, found: dict[str, Any]) -> Finding:
    """Tell of ONNX Runtime, as an engine, what its CPU showed."""
    version = found.get("version") or machine.installed_engines().get("onnxruntime")
    if not cpu.usable:
        return Finding(ONNX, "engine", False, version, reason=cpu.reason, fix=cpu.fix)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in found["providers"])
    return Finding(ONNX, "engine", True, version, f"providers {names}")


def _providers(model: Path, available: Sequence[str], pool: ThreadPoolExecutor) -> list[Finding]:
    """Try the providers of this build; of a kind that it has none of, say what would bring one."""
    if not available:
        return []
    here = [f"{kind}:{name}" for (kind, name), provider in PROVIDERS.items() if provider.name in available]
    tried = [finding for finding, _ in pool.map(lambda delegate: _try_delegate(model, delegate), here)]
    return [*tried, *(_missing(kind, available) for kind in ("gpu", "npu") if not _has(kind, here))]


def _has(kind: str, delegates: Sequence[str]) -> bool:
    return any(delegate.startswith(f"{kind}:") for delegate in delegates)


def _missing(kind: str, available: Sequence[str]) -> Finding:
    try:
        choose(Delegate(kind), available)
    except EngineError as error:
        fix = error.fix.partition(", or name a fallback")[0]
        return Finding(kind, "onnx", False, reason=error.reason, fix=fix)
    raise AssertionError(kind)
