"""ONNX Runtime, on the CPU and on its execution providers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.execution import Execution
from edgeferry_runtime.engines.onnx_placement import count_nodes, record
from edgeferry_runtime.errors import CorruptFileError, EngineError, MissingExtraError, UnknownNameError
from edgeferry_runtime.quiet_stderr import quiet_stderr
from edgeferry_runtime.tensors import Array, Quantization, TensorSpec

FATAL = 4
"""The log severity at which errors, which are raised anyway, are not printed as well."""

PROVIDER = "CPUExecutionProvider"

FLOAT_MATRICES = ("session.qdq_matmulnbits_accuracy_level", "1")
"""Multiply dequantized weights with float32 activations; by itself ONNX Runtime rounds these to int8."""

QUANTIZATION_KEY = "edgeferry.quantization"
"""The model's metadata that tells how integer inputs and outputs map to real values."""

DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Node(NamedTuple):
    """An input or output as the session tells it; a dimension without a number is a name or None."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass
class OnnxRuntimeEngine:
    """One ONNX artifact in its session; see `Engine`."""

    concurrent: ClassVar[bool] = True
    stateful: ClassVar[bool] = False
    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[[Sequence[Array]], list[Array]]
    execution: Execution
    signature: str = ""
    signatures: tuple[str, ...] = ()

    def reset(self) -> None:
        """Do nothing: a session keeps nothing between runs."""

    def close(self) -> None:
        """Free the session, which only `run` holds."""
        self.run = _closed


def _closed(feeds: Sequence[Array]) -> list[Array]:
    raise EngineError("the engine", "was closed", "load the artifact again")


def open_engine(
    path: Path, delegate: Delegate, signature: str | None = None, *, prepack: bool = True
) -> OnnxRuntimeEngine:
    """Load a verified ``.onnx`` file.

    Args:
        path: The artifact.
        delegate: Where to execute.
        signature: None, because an ONNX file has one graph and no signatures.
        prepack: Whether weights are copied into the order that the kernels like best. Without, those in a file
            beside the artifact stay there, mapped: they load at once and take no memory that others could not have.

    Raises:
        UnknownNameError: For any signature.
        MissingExtraError: If ONNX Runtime is not installed.
        CorruptFileError: If the file's quantization metadata cannot be read.
        EngineError: If ONNX Runtime refuses the file.
    """
    if signature is not None:
        raise UnknownNameError("--signature", signature, ["none: an ONNX file has no signatures"])
    runtime = import_engine(path)
    refusals = _refusals(runtime)
    session, execution = _open_session(runtime, path, delegate, refusals, prepack)
    try:
        quantized = session.get_modelmeta().custom_metadata_map.get(QUANTIZATION_KEY, "{}")
        sources, targets = (
            [Node(node.name, node.type, node.shape) for node in nodes]
            for nodes in (session.get_inputs(), session.get_outputs())
        )
    except refusals as error:
        raise refusal(path, error) from error
    known = _quantizations(path, quantized)
    inputs = tuple(_spec(path, node, known) for node in sources)
    outputs = tuple(_spec(path, node, known) for node in targets)
    run = _call(session, (inputs, outputs), path, refusals)
    return OnnxRuntimeEngine("onnxruntime", runtime.__version__, inputs, outputs, run, execution)


def _open_session(
    runtime: Any, path: Path, delegate: Delegate, refusals: tuple[type[Exception], ...], prepack: bool
) -> tuple[Any, Execution]:
    if not delegate.is_plain_cpu:
        from edgeferry_runtime.engines.onnx_accelerated import open_accelerated

        return open_accelerated(runtime, path, delegate, refusals)
    try:
        with quiet_stderr():
            options = record(_options(runtime, delegate, prepack))
            session = runtime.InferenceSession(str(path), options, providers=[PROVIDER], enable_fallback=0)
        nodes = count_nodes(session)
    except refusals as error:
        raise refusal(path, error) from error
    return session, Execution(str(delegate), str(delegate), f"CPU, {_threads(delegate)}", nodes)


def _threads(delegate: Delegate) -> str:
    if delegate.threads is None:
        return "a thread per core"
    return f"{delegate.threads} thread{'s' if delegate.threads > 1 else ''}"


def import_engine(path: object) -> Any:
    """Import ONNX Runtime, with its telemetry off unless the environment says otherwise.

    Since 1.31 an import on Linux starts reporting to its maker and leaves a session file in the temporary folder.

    Raises:
        MissingExtraError: If it is not installed.
        EngineError: If it is, and cannot be imported: its C library may be too new for this system.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with quiet_stderr():
            import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtraError(path, "onnx", "onnxruntime") from None
    except ImportError as error:
        reason = f"onnxruntime is installed and cannot be imported ({error})"
        raise EngineError(path, reason, "install a build of it for this system") from error
    return onnxruntime


def _refusals(runtime: Any) -> tuple[type[Exception], ...]:
    """Every error of the native part (they have no common base of their own), and what its binding raises."""
    native = vars(runtime.capi.onnxruntime_pybind11_state).values()
    own = (value for value in native if isinstance(value, type) and issubclass(value, Exception))
    return (ValueError, RuntimeError, TypeError, MemoryError, *own)


def _options(runtime: Any, delegate: Delegate, prepack: bool = True) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = FATAL
    options.add_session_config_entry(*FLOAT_MATRICES)
    if delegate.threads is not None:
        options.intra_op_num_threads = delegate.threads
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def refusal(path: Path, error: BaseException) -> EngineError:
    """Say in one line why ONNX Runtime refused a file or a run."""
    text = " ".join(str(error).split())
    said = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    return EngineError(path, f"ONNX Runtime refuses it: {said[:300]}", "check the model, or convert the source again")


def _quantizations(path: Path, text: str) -> dict[str, Quantization]:
    try:
        found = json.loads(text)
        return {
            name: Quantization(tuple(map(float, q["scale"])), tuple(map(int, q["zero_point"])), q["axis"])
            for name, q in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"its metadata {QUANTIZATION_KEY} cannot be read ({type(error).__name__}: {error})"
        raise CorruptFileError(path, reason, "convert the source again") from error


def _spec(path: Path, node: Node, quantizations: Mapping[str, Quantization]) -> TensorSpec:
    if node.type not in DTYPES:
        raise EngineError(path, f"{node.name} is a {node.type}, which NumPy cannot hold", "give a model of tensors")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    dtype = DTYPES[node.type]
    quantization = quantizations.get(node.name) if "int" in dtype else None
    if quantization and not quantization.fits(shape):
        reason = f"its metadata {QUANTIZATION_KEY} does not fit {node.name}"
        raise CorruptFileError(path, reason, "convert the source again")
    return TensorSpec(node.name, shape, dtype, quantization)


def _call(
    session: Any,
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    path: Path,
    refusals: tuple[type[Exception], ...],
) -> Callable[[Sequence[Array]], list[Array]]:
    """Return the session's run, prepared for these names."""
    sources, targets = ([spec.name for spec in side] for side in specs)
    execute = session.run

    def run(feeds: Sequence[Array]) -> list[Array]:
        try:
            found: list[Array] = execute(targets, dict(zip(sources, feeds)))  # noqa: B905 (counted by the model)
        except refusals as error:
            raise refusal(path, error) from error
        return found

    return run
