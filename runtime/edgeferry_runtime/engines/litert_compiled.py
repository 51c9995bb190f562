"""LiteRT's accelerators, the GPU and the NPU, through its ``CompiledModel``.

An accelerator is asked for alone, so that a model is refused which it cannot take whole: together with the CPU, LiteRT
falls back without a word.
"""

from __future__ import annotations

import importlib
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.engines import litert_reasons as reasons
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.execution import Execution
from edgeferry_runtime.errors import EngineError, PartialDelegationError
from edgeferry_runtime.quiet_stderr import capture_output, quiet_stderr
from edgeferry_runtime.tensors import Array, TensorSpec
from edgeferry_runtime.tflite_file import Signature

NEEDED_ON_ARM = ("atomics", "asimddp", "fphp")
"""The words of ``/proc/cpuinfo`` for the instructions that the accelerators' libraries use; a Pi 4 has none of them."""
DTYPES = ("float32", "float16", "int32", "int8", "uint8", "bool")
"""What LiteRT's tensor buffers hold."""
CPUINFO = Path("/proc/cpuinfo")
ELSEWHERE = "use another delegate, or name a fallback: --delegate {},cpu"
REFUSALS = (RuntimeError, ValueError, TypeError, MemoryError)


@dataclass(frozen=True)
class Artifact:
    """One ``.tflite`` file.

    Attributes:
        path: Where it lies.
        specs: Its inputs and its outputs, as the interpreter tells them.
        signature: The signature that is run; None where it has none.
        signatures: The names of all.
        operators: The operator of each node of its main graph; empty where another graph is run.
    """

    path: Path
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
    signature: Signature | None
    signatures: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs."""
        return self.specs[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs."""
        return self.specs[1]


@dataclass
class Native:
    """What lives in LiteRT, in its order.

    Attributes:
        model: The compiled model.
        index: Which of its signatures.
        sources: Where each of the engine's inputs stands in LiteRT's order.
        targets: The same of its outputs.
        shapes: The present shapes of the engine's inputs.
        results: Those of the engine's outputs.
        inputs: A buffer for each input.
        outputs: The same for each output.
    """

    model: Any
    index: int
    sources: Sequence[int]
    targets: Sequence[int]
    shapes: Sequence[tuple[int, ...]]
    results: Sequence[tuple[int, ...]] = ()
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def allocate(self, dtypes: Sequence[str]) -> None:
        """Make buffers for the present shapes, and write to them once, because LiteRT chatters at the first time.

        Args:
            dtypes: Of the engine's inputs.
        """
        signature = self.model.get_signature_by_index(self.index)
        details = self.model.get_output_tensor_details(signature["key"])
        self.inputs = self.model.create_input_buffers(self.index)
        self.outputs = self.model.create_output_buffers(self.index)
        found = [tuple(int(dim) for dim in details[name]["shape"]) for name in signature["outputs"]]
        self.results = [found[target] for target in self.targets]
        given = self.model.get_input_tensor_details(signature["key"])
        for source, dtype in zip(self.sources, dtypes, strict=True):
            self.inputs[source].write(np.zeros(given[signature["inputs"][source]]["shape"], dtype))

    def resize(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> None:
        """Give the inputs other shapes; `dtypes` as in `allocate`."""
        with capture_output():
            for source, shape in zip(self.sources, shapes, strict=True):
                self.model.resize_input_tensor(source, shape, self.index)
            self.allocate(dtypes)
        self.shapes = shapes

    def free(self) -> None:
        """Let go of all; LiteRT chatters about it."""
        with quiet_stderr():
            self.inputs.clear()
            self.outputs.clear()
            self.model = None


class CompiledEngine:
    """One TFLite artifact on an accelerator; see `Engine`.

    Args:
        version: LiteRT's.
        artifact: What is executed.
        native: It holds its model and buffers.
        execution: What really executes it.
    """

    concurrent = stateful = False

    def __init__(self, version: str, artifact: Artifact, native: Native, execution: Execution) -> None:
        self.name, self.version = "ai_edge_litert", version
        self.inputs, self.outputs, self.execution = artifact.inputs, artifact.outputs, execution
        self.signature = artifact.signature.key if artifact.signature else ""
        self.signatures = artifact.signatures
        self.run: Callable[[Sequence[Array]], list[Array]] = _call(artifact, native)
        self._free = weakref.finalize(self, native.free)

    def reset(self) -> None:
        """Do nothing: no accelerator takes variables."""

    def close(self) -> None:
        """Free the model and its buffers."""
        self.run = _closed
        self._free()


def _closed(feeds: Sequence[Array]) -> list[Array]:
    raise EngineError("the engine", "was closed", "load the artifact again")


def open_compiled(artifact: Artifact, delegate: Delegate, version: str) -> CompiledEngine:
    """Load a verified ``.tflite`` file onto an accelerator.

    Args:
        artifact: The file.
        delegate: ``gpu`` or ``npu``.
        version: LiteRT's.

    Raises:
        EngineError: If this machine has no such accelerator, it does not take every node, or it cannot be known
            that it executes.
    """
    _check(artifact, delegate)
    with capture_output() as said:
        found = _compile(artifact, delegate)
    if isinstance(found, Exception):
        refusal = reasons.gpu_refusal if delegate.kind == "gpu" else reasons.npu_refusal
        partial = PartialDelegationError if reasons.is_partial(said.text, str(found)) else EngineError
        raise _unusable(delegate, refusal(said.text, str(found)), partial) from found
    return CompiledEngine(version, artifact, found, _execution(artifact, delegate, said.text))


def _check(artifact: Artifact, delegate: Delegate) -> None:
    """Refuse what is known to fail, or to kill the process."""
    if delegate.name not in (None, {"gpu": "webgpu"}.get(delegate.kind)):
        raise _unusable(delegate, f"is not available for TFLite artifacts; write {delegate.kind}")
    lacking = missing_instructions(CPUINFO.read_text(errors="replace") if CPUINFO.exists() else "")
    if lacking:
        raise _unusable(delegate, f"this CPU lacks instructions that LiteRT's accelerators use ({', '.join(lacking)})")
    for spec in (*artifact.inputs, *artifact.outputs):
        if spec.dtype not in DTYPES:
            raise _unusable(delegate, f"{spec.name} is {spec.dtype}, which LiteRT's accelerators do not take")


def missing_instructions(cpuinfo: str) -> tuple[str, ...]:
    """Return which needed instructions an Arm core lacks; nothing is known of others, and nothing missing."""
    lines = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("Features")]
    return tuple(word for word in NEEDED_ON_ARM if any(word not in words for words in lines))


def _compile(artifact: Artifact, delegate: Delegate) -> Native | Exception:
    """Compile for the accelerator alone; a refusal is returned, so that what was said can be read."""
    try:
        litert = importlib.import_module("ai_edge_litert.compiled_model")
        place = getattr(litert.HardwareAccelerator, delegate.kind.upper())
        model = litert.CompiledModel.from_file(str(artifact.path), hardware_accel=place)
        index = model.get_signature_index(artifact.signature.key) if artifact.signature else 0
        native = Native(model, index, *_order(artifact, model, index), [spec.shape for spec in artifact.inputs])
        native.allocate([spec.dtype for spec in artifact.inputs])
    except (ImportError, AttributeError) as error:
        return RuntimeError(f"it needs ai-edge-litert 2 and ml_dtypes ({error})")
    except REFUSALS as error:
        return error
    return native


def _order(artifact: Artifact, model: Any, index: int) -> tuple[Sequence[int], Sequence[int]]:
    """Find the engine's inputs and outputs in LiteRT's order: by name where there is a signature."""
    if artifact.signature is None:
        return range(len(artifact.inputs)), range(len(artifact.outputs))
    found = model.get_signature_by_index(index)
    sources = [found["inputs"].index(spec.name) for spec in artifact.inputs]
    return sources, [found["outputs"].index(spec.name) for spec in artifact.outputs]


def _execution(artifact: Artifact, delegate: Delegate, said: str) -> Execution:
    """Tell what executes, by what LiteRT said; only the GPU names itself."""
    text = str(delegate)
    if delegate.kind == "npu":
        return Execution(text, text, "an NPU that LiteRT does not name")
    processor, total = reasons.adapter(said), len(artifact.operators)
    if processor is None:
        raise _unusable(delegate, "LiteRT does not say which GPU it uses, so it may be none")
    if not total:
        return Execution(text, text, processor)
    share = reasons.gpu_share(said)
    behind = reasons.left_behind(artifact.operators, reasons.unsupported(said))
    return Execution(text, text, processor, total, share[0] if share else total, None, behind)


def _unusable(delegate: Delegate, reason: str, kind: type[EngineError] = EngineError) -> EngineError:
    return kind(f"--delegate {delegate}", reason, ELSEWHERE.format(delegate))


def _call(artifact: Artifact, native: Native) -> Callable[[Sequence[Array]], list[Array]]:
    """Return what writes, runs and reads, prepared for these ports."""
    dtypes = [np.dtype(spec.dtype) for spec in artifact.outputs]
    fixed = not any(-1 in spec.shape for spec in artifact.inputs)

    def run(feeds: Sequence[Array]) -> list[Array]:
        try:
            if not fixed and (shapes := [value.shape for value in feeds]) != native.shapes:
                native.resize(shapes, [spec.dtype for spec in artifact.inputs])
            for source, value in zip(native.sources, feeds, strict=True):
                native.inputs[source].write(value)
            native.model.run_by_index(native.index, native.inputs, native.outputs)
            return [
                native.outputs[target].read(math.prod(shape), dtype).reshape(shape)
                for target, shape, dtype in zip(native.targets, native.results, dtypes, strict=True)
            ]
        except REFUSALS as error:
            reason = f"LiteRT refuses it: {' '.join(str(error).split())[:300]}"
            raise EngineError(artifact.path, reason, "use another delegate, such as cpu") from error

    return run
