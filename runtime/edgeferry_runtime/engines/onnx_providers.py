"""ONNX Runtime's execution providers, behind the grammar of ``--delegate``.

ONNX Runtime never fails for want of a provider: one that this build lacks is left out with a warning, one that cannot
start is left out with a line on C's stderr, and the CPU executes. So what was asked for is compared with what there is.
Source: onnxruntime.ai, "ONNX Runtime Execution Providers", and the pages of the single providers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.errors import EngineError

ELSEWHERE = "use another delegate, or name a fallback: --delegate {},cpu"


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers, on one kind of processor.

    Attributes:
        name: ONNX Runtime's name for it.
        processor: Where it executes, in words.
        wheel: What brings it; no two of these wheels can be installed together.
        compiles: Whether it takes connected parts of the graph, rather than single nodes.
        moves_layout: Whether it reorders dimensions of tensors, and so changes the graph while nodes are assigned.
        settings: Its options.
        whole: Whether it must take all nodes, because it runs on another processor without a word where it cannot.
        system: The only ``sys.platform`` that has it; nothing for several.
    """

    name: str
    processor: str
    wheel: str
    compiles: bool = True
    moves_layout: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    system: str = ""


CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
COREML = "CoreMLExecutionProvider"

PROVIDERS: Mapping[tuple[str, str], Provider] = {
    ("gpu", "cuda"): Provider("CUDAExecutionProvider", "GPU, CUDA", "onnxruntime-gpu", compiles=False),
    ("gpu", "migraphx"): Provider("MIGraphXExecutionProvider", "GPU, MIGraphX", "onnxruntime-migraphx"),
    ("gpu", "coreml"): Provider(
        COREML,
        "GPU or CPU, as Core ML chooses",
        "onnxruntime",
        settings={"MLComputeUnits": "CPUAndGPU"},
        system="darwin",
    ),
    ("gpu", "directml"): Provider(
        "DmlExecutionProvider", "GPU, DirectML", "onnxruntime-directml", compiles=False, system="win32"
    ),
    ("gpu", "webgpu"): Provider("WebGpuExecutionProvider", "WebGPU", "onnxruntime-webgpu", False, moves_layout=True),
    ("gpu", "openvino"): Provider(OPENVINO, "GPU, OpenVINO", "onnxruntime-openvino", settings={"device_type": "GPU"}),
    ("gpu", "tensorrt"): Provider("TensorrtExecutionProvider", "GPU, TensorRT", "onnxruntime-gpu"),
    ("npu", "qnn"): Provider("QNNExecutionProvider", "NPU, QNN", "onnxruntime-qnn", settings={"backend_type": "htp"}),
    ("npu", "vitisai"): Provider("VitisAIExecutionProvider", "NPU, Vitis AI", "AMD's onnxruntime-vitisai"),
    ("npu", "coreml"): Provider(
        COREML,
        "NPU or CPU, as Core ML chooses",
        "onnxruntime",
        settings={"MLComputeUnits": "CPUAndNeuralEngine"},
        system="darwin",
    ),
    ("npu", "openvino"): Provider(
        OPENVINO, "NPU, OpenVINO", "onnxruntime-openvino", settings={"device_type": "NPU"}, whole=True
    ),
    ("cpu", "openvino"): Provider(OPENVINO, "CPU, OpenVINO", "onnxruntime-openvino", settings={"device_type": "CPU"}),
}
"""By kind and backend of a delegate; ``gpu`` and ``npu`` alone take the first that this build has."""

COLOR = re.compile(r"\x1b\[[0-9;]*m")
LOGGED = re.compile(r"\[E:onnxruntime[^]]*\] (.+)")
PLACE = re.compile(
    r"^.*(?:\[ONNXRuntimeError\][ :]+\d+[ :]+\w+ : |\[OpenVINO(?:-EP)?\] |was false\. |Exception from \S+ |\) (?=\w))"
)


def choose(delegate: Delegate, available: Sequence[str]) -> Provider:
    """Find the provider of a delegate among those of this build.

    Args:
        delegate: Of the kind ``gpu`` or ``npu``, or ``cpu`` with a backend.
        available: What ``get_available_providers`` gave.

    Raises:
        EngineError: If this build has none.
    """
    wanted = {name: found for (kind, name), found in PROVIDERS.items() if kind == delegate.kind}
    if delegate.name is not None:
        wanted = {name: found for name, found in wanted.items() if name == delegate.name}
    for provider in wanted.values():
        if provider.name in available:
            return provider
    if not wanted:
        reason = "is not available for ONNX artifacts"
        raise EngineError(f"--delegate {delegate}", reason, "use a .tflite file, or --delegate cpu")
    has = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    reason = f"this build of ONNX Runtime has no such provider (it has {has})"
    raise EngineError(f"--delegate {delegate}", reason, f"{_install(wanted)}, or name a fallback: {delegate},cpu")


def _install(wanted: Mapping[str, Provider]) -> str:
    """Say which wheels have a provider, on this system where there is one."""
    here = {name: found for name, found in wanted.items() if found.system in ("", sys.platform)}
    wheels: dict[str, list[str]] = {}
    for name, found in (here or wanted).items():
        wheels.setdefault(found.wheel, []).append(name)
    told = " or ".join(f"{wheel} ({', '.join(names)})" for wheel, names in wheels.items())
    return f"install {told} {'in place of the present wheel' if here else 'on a system that has it'}"


def not_started(delegate: Delegate, provider: Provider, said: str) -> EngineError:
    """Say why a provider of this build did not start.

    Args:
        delegate: What was asked for.
        provider: What was chosen for it.
        said: What ONNX Runtime said on C's stderr, or in its error.
    """
    reason = f"{provider.name} cannot start ({first_reason(said) or 'ONNX Runtime does not say why'})"
    return EngineError(f"--delegate {delegate}", reason, ELSEWHERE.format(delegate))


def has_error(said: str) -> bool:
    """Tell whether ONNX Runtime logged an error."""
    return LOGGED.search(said) is not None


def first_reason(said: str) -> str:
    """Return the first error that ONNX Runtime logged, without time, place and signature."""
    plain = COLOR.sub("", said)
    logged = LOGGED.search(plain)
    text = " ".join((logged[1] if logged else plain).split())
    return PLACE.sub("", text).strip()[:300]
