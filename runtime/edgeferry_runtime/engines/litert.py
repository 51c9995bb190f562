"""LiteRT, by whichever of its three packages is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.execution import Execution
from edgeferry_runtime.engines.litert_library import LoadDelegate, check_edgetpu, library_name, load_library
from edgeferry_runtime.engines.litert_nodes import count_nodes, delegated_share, operators
from edgeferry_runtime.engines.litert_refusals import REFUSALS, refusal
from edgeferry_runtime.errors import EngineError, MissingExtraError, PartialDelegationError
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.quiet_stderr import quiet_stderr
from edgeferry_runtime.tensors import Array, Quantization, TensorSpec
from edgeferry_runtime.tflite_file import Signature, TfliteFile, read_tflite

if TYPE_CHECKING:
    from edgeferry_runtime.engines.litert_compiled import Artifact, CompiledEngine

PACKAGES: Mapping[str, tuple[str, str]] = {
    "ai_edge_litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite_runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
    "tensorflow.lite": ("tensorflow.lite.python.interpreter", "tensorflow"),
}
"""By engine name: the module that has the interpreter, and the distribution that brings it, best first."""

Run = Callable[[Sequence[Array]], list[Array]]

UNDONE = "Restored original execution plan after delegate application failure."
"""What LiteRT adds to the reason of a delegate that fails."""


class Package(NamedTuple):
    """The interpreter that was found: the engine's name, who brings it, its class, and what loads its delegates."""

    name: str
    distribution: str
    interpreter: Any
    load_delegate: LoadDelegate

    @property
    def version(self) -> str:
        """Its version, looked up when it is asked for: that costs more than loading a small model."""
        return _version(self.distribution)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Port:
    """One input or output: its tensor's index in the interpreter, and what it is."""

    index: int
    spec: TensorSpec


class LiteRTEngine:
    """One TFLite artifact in its interpreter; see `Engine`.

    Attributes:
        stateful, signature, signatures: See `Engine`.
        reopen: Opens the artifact anew, where nothing else sets back what it keeps between runs.

    Args:
        package: What brought the interpreter.
        interpreter: It has allocated its tensors.
        ports: Its inputs and its outputs.
        run: What executes it once.
        execution: What really executes it.
    """

    concurrent = False

    def __init__(
        self, package: Package, interpreter: Any, ports: tuple[list[Port], list[Port]], run: Run, execution: Execution
    ) -> None:
        self.name, self._package = package.name, package
        self.inputs, self.outputs = (tuple(port.spec for port in side) for side in ports)
        self.run, self.execution = run, execution
        self._interpreter = interpreter
        self.stateful = False
        self.signature = ""
        self.signatures: tuple[str, ...] = ()
        self.reopen: Callable[[], LiteRTEngine] | None = None

    @property
    def version(self) -> str:
        """The package's version."""
        return self._package.version

    def reset(self) -> None:
        """Set variable tensors back to zero, and resource variables to what they begin with, by a new interpreter."""
        if self.reopen is None:
            self._interpreter.reset_all_variables()
        else:
            fresh = self.reopen()
            self.run, self._interpreter = fresh.run, fresh._interpreter

    def close(self) -> None:
        """Free the interpreter."""
        self.run, self._interpreter = _closed, None


def _closed(feeds: Sequence[Array]) -> list[Array]:
    raise EngineError("the engine", "was closed", "load the artifact again")


def open_engine(path: Path, delegate: Delegate, chosen: str | None = None) -> LiteRTEngine | CompiledEngine:
    """Load a verified ``.tflite`` file.

    Args:
        path: The artifact.
        delegate: Where to execute.
        chosen: The signature to run; None takes the primary one.

    Raises:
        UnknownNameError: If the file has no such signature.
        MissingExtraError: If none of the packages is installed.
        EngineError: If the interpreter refuses the file or has no such delegate.
    """
    with map_file(path) as data:
        file = read_tflite(data)
    signature = file.choose(chosen)
    check_edgetpu(path, delegate, file)
    if delegate.kind == "cpu" and not delegate.is_plain_cpu:
        raise EngineError(f"--delegate {delegate}", "is not available for TFLite artifacts", "use --delegate cpu")
    package = import_engine(path)
    if delegate.kind in ("gpu", "npu"):
        from edgeferry_runtime.engines.litert_compiled import open_compiled

        return open_compiled(_artifact(path, package, file, signature), delegate, package.version)
    return _open_interpreter(path, delegate, package, file, signature)


def _artifact(path: Path, package: Package, file: TfliteFile, signature: Signature | None) -> Artifact:
    """Describe a file as its interpreter tells it, without allocating anything."""
    from edgeferry_runtime.engines.litert_compiled import Artifact

    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = package.interpreter(str(path))
            inputs, outputs = (tuple(port.spec for port in side) for side in _ports(interpreter, signature))
    except REFUSALS as error:
        raise refusal(path, error, str(package)) from error
    main = signature is None or not signature.subgraph
    return Artifact(path, (inputs, outputs), signature, file.keys, operators(interpreter) if main else ())


def _open_interpreter(
    path: Path, delegate: Delegate, package: Package, file: TfliteFile, signature: Signature | None
) -> LiteRTEngine:
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = _interpreter(path, delegate, package)
        taken = range(file.nodes, count_nodes(interpreter))
        try:
            interpreter.allocate_tensors()
            inputs, outputs = _ports(interpreter, signature)
        except REFUSALS as error:
            raise refusal(path, error, str(package)) from error
    execution = _execution(path, delegate, interpreter, (file.nodes, taken))
    if signature is not None and signature.subgraph:
        run = _signature_call(path, interpreter.get_signature_runner(signature.key), inputs, outputs)
    else:
        run = _main_call(path, interpreter, inputs, outputs)
    engine = LiteRTEngine(package, interpreter, (inputs, outputs), run, execution)
    engine.stateful = file.stateful
    engine.signature, engine.signatures = signature.key if signature else "", file.keys
    if file.resources:
        engine.reopen = lambda: _open_interpreter(path, delegate, package, file, signature)
    return engine


def _interpreter(path: Path, delegate: Delegate, package: Package) -> Any:
    """Open an interpreter, with the delegate's library where it has one."""
    if delegate.kind == "cpu":
        try:
            return package.interpreter(str(path), num_threads=delegate.threads)
        except REFUSALS as error:
            raise refusal(path, error, str(package)) from error
    library = load_library(delegate, package.load_delegate)
    try:
        return package.interpreter(str(path), experimental_delegates=[library])
    except REFUSALS as error:
        said = " ".join(str(error).replace(UNDONE, "").split())
        reason = f"cannot be applied to {path.name} ({said[:300] or 'it does not say why'})"
        raise EngineError(f"--delegate {delegate}", reason, "use another delegate, such as cpu") from error


def _execution(path: Path, delegate: Delegate, interpreter: Any, nodes: tuple[int, Sequence[int]]) -> Execution:
    """Tell what a delegate took; on the CPU, what XNNPACK did, which LiteRT applies to all that is left over.

    Args:
        path: The artifact.
        delegate: Where it executes.
        interpreter: It has allocated its tensors.
        nodes: How many the file has, and the indices of those that the delegate put in their place.
    """
    file_nodes, taken = nodes
    rest = range(file_nodes + len(taken), count_nodes(interpreter))
    threads = delegate.threads or 1
    cpu = f"CPU{', XNNPACK' if rest else ''}, {threads} thread{'s' if threads > 1 else ''}"
    share = delegated_share(interpreter, file_nodes, rest if delegate.kind == "cpu" else taken)
    if delegate.kind == "cpu":
        return Execution(str(delegate), str(delegate), cpu, **share._asdict())
    if not taken:
        reason = f"takes none of the {file_nodes} nodes of {path.name}"
        raise PartialDelegationError(f"--delegate {delegate}", reason, "use another delegate, such as cpu")
    processor = library_name(delegate) + (f" and {cpu}" if share.left_behind else "")
    return Execution(str(delegate), str(delegate), processor, **share._asdict())


def import_engine(path: Path) -> Package:
    """Import the first of the packages that is installed.

    Raises:
        MissingExtraError: If none is.
        EngineError: If one is, and cannot be imported: its C library may be too new for this system.
    """
    broken, fix = "", "install a build of it for this system"
    for name, (module, distribution) in PACKAGES.items():
        conflict = numpy_conflict(distribution)
        if conflict and importlib.util.find_spec(name):
            broken, fix = broken or f"{name} is installed and {conflict}", "run: pip install 'numpy<2'"
            continue
        try:
            with quiet_stderr():
                found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            broken = broken or f"{name} is installed and cannot be imported ({error})"
            continue
        return Package(name, distribution, found.Interpreter, found.load_delegate)
    if broken:
        raise EngineError(path, broken, fix)
    raise MissingExtraError(path, "litert", "ai_edge_litert")


def numpy_conflict(distribution: str) -> str | None:
    """Say why a package must not be imported beside this NumPy: built for NumPy 1, it fails or dies under NumPy 2."""
    if distribution != "tflite-runtime" or int(np.__version__.partition(".")[0]) < 2:
        return None
    return f"needs NumPy 1, and this Python has NumPy {np.__version__}"


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _ports(interpreter: Any, signature: Signature | None) -> tuple[list[Port], list[Port]]:
    """Describe inputs and outputs: by the signature where there is one, else by the tensors' own names."""
    if signature is None:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return _by_tensor(inputs, "input"), _by_tensor(outputs, "output")
    runner = interpreter.get_signature_runner(signature.key)
    sides = (runner.get_input_details(), runner.get_output_details())
    inputs, outputs = ([_port(name, details) for name, details in side.items()] for side in sides)
    return inputs, outputs


def _by_tensor(details: Sequence[Mapping[str, Any]], kind: str) -> list[Port]:
    """Name ports by their tensors; where names are absent or double, by their position."""
    names = [d["name"] for d in details]
    if "" in names or len(set(names)) < len(names):
        names = [f"{kind}_{i}" for i in range(len(names))]
    return [_port(name, d) for name, d in zip(names, details, strict=True)]


def _port(name: str, details: Mapping[str, Any]) -> Port:
    shape, signature = details["shape"], details["shape_signature"]
    dims = signature if len(signature) == len(shape) else shape
    dtype = np.dtype(details["dtype"])
    kind = "object" if dtype.kind == "S" else dtype.name
    found = tuple(int(d) for d in dims)
    spec = TensorSpec(name, found, kind, _quantization(dtype, found, details))
    return Port(int(details["index"]), spec)


def _quantization(dtype: np.dtype[Any], shape: tuple[int, ...], details: Mapping[str, Any]) -> Quantization | None:
    """Read what a tensor's integers mean; None where they are the values, or what is said cannot be."""
    said = details["quantization_parameters"]
    scales, zero_points = said["scales"], said["zero_points"]
    axis = int(said["quantized_dimension"]) if len(scales) > 1 else None
    found = Quantization(tuple(float(s) for s in scales), tuple(int(z) for z in zero_points), axis)
    return found if dtype.kind in "iu" and found.fits(shape) else None


def _main_call(path: Path, interpreter: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> Run:
    """Return the run that sets, invokes and gets, prepared for these ports."""
    set_tensor, invoke, get_tensor = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor
    sources = [port.index for port in inputs]
    targets = [port.index for port in outputs]
    resize = _resizer(interpreter, inputs) if any(-1 in port.spec.shape for port in inputs) else None

    def run(feeds: Sequence[Array]) -> list[Array]:
        try:
            if resize:
                resize(feeds)
            for index, value in zip(sources, feeds):  # noqa: B905 (the model counted them)
                set_tensor(index, value)
            invoke()
            return [get_tensor(index) for index in targets]
        except REFUSALS as error:
            raise refusal(path, error) from error

    return run


def _resizer(interpreter: Any, inputs: Sequence[Port]) -> Callable[[Sequence[Array]], None]:
    """Return what resizes the inputs and allocates again when, and only when, a shape has changed."""
    current: list[tuple[int, ...]] = []

    def resize(feeds: Sequence[Array]) -> None:
        shapes = [value.shape for value in feeds]
        if shapes == current:
            return
        current.clear()
        for port, shape in zip(inputs, shapes, strict=True):
            interpreter.resize_tensor_input(port.index, shape)
        interpreter.allocate_tensors()
        current.extend(shapes)

    return resize


def _signature_call(path: Path, runner: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> Run:
    """Return the run of a signature of another subgraph, which only its runner reaches."""

    def run(feeds: Sequence[Array]) -> list[Array]:
        try:
            results = runner(**{port.spec.name: value for port, value in zip(inputs, feeds, strict=True)})
        except REFUSALS as error:
            raise refusal(path, error) from error
        return [results[port.spec.name] for port in outputs]

    return run
