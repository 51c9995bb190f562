"""A loaded artifact: NumPy in, NumPy out."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_runtime.codec import Encode, decoder, encoder
from edgeferry_runtime.engines import Engine, Execution, open_engine, parse_delegates
from edgeferry_runtime.engines.execution import gate
from edgeferry_runtime.errors import BundleError, DataError, EngineError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_runtime.bundle import Manifest
    from edgeferry_runtime.classification import Classifier, Prediction
    from edgeferry_runtime.preprocess import Preprocess


def load(
    path: str | os.PathLike[str],
    *,
    delegate: str = "cpu",
    signature: str | None = None,
    require_full_delegation: bool = False,
) -> Model:
    """Load a bundle or an artifact into its engine.

    The file's structure is verified first. A well-formed file can still crash a native engine: put doubtful
    ones through `edgeferry_runtime.guard.try_in_child` before, or run them by `edgeferry_runtime.confined`. The hashes
    of a bundle tell that nothing was changed after it was made, and not who made it.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        delegate: Where to execute, such as ``cpu:4``; see `edgeferry_runtime.engines.Delegate`. Several, joined by
            commas, are an order of preference: ``gpu,cpu``.
        signature: Which of an artifact's signatures to run; None takes ``serving_default``, else the first.
        require_full_delegation: Refuse a delegate that does not take every node.

    Returns:
        The model. A bundle's has the inputs and outputs in the order that its source had them.

    Raises:
        MissingFileError: If there is no such file or folder.
        BundleError: If the folder is no bundle, its manifest speaks of another artifact, or has no hash of a file
            with weights.
        UnknownFormatError: If the file is neither format.
        CorruptFileError: If it is damaged.
        UsageError: If `delegate` is none.
        UnknownNameError: If there is no such signature.
        MissingExtraError: If the engine is not installed.
        EngineError: If the engine refuses the artifact.
        DelegationError: If a delegate did not take every node, where that is required.
    """
    places = parse_delegates(delegate)
    artifact, manifest = _resolve(Path(path))
    format_name = check_artifact(artifact)
    with gate(require_full_delegation):
        engine = open_engine(format_name, artifact, places, signature)
    if require_full_delegation:
        engine.execution.check_full(artifact)
    return Model(artifact, format_name, engine, manifest.at(signature) if manifest else None)


def _resolve(path: Path) -> tuple[Path, Manifest | None]:
    """Return the artifact of a bundle, and its manifest; any other path stays what it is."""
    if not path.is_dir():
        return path, None
    from edgeferry_runtime.bundle import Bundle

    bundle = Bundle.open(path)
    bundle.check_weights()
    return bundle.artifact, bundle.manifest


class Model:
    """A loaded artifact; make one with `load`.

    It is callable: ``model(x)`` for one input, ``model(name=x, …)`` or ``model({"name": x, …})`` for several.
    Threads may share it: LiteRT executes their calls one after the other, ONNX Runtime at once. An input array of
    the stored dtype is handed on as it is, never copied: ONNX Runtime reads it in place where it is C-contiguous,
    LiteRT copies it once into its arena. Files are mapped, and weights are read once.

    Args:
        path: The artifact.
        format_name: ``tflite`` or ``onnx``.
        engine: The engine that holds it.
        manifest: The bundle's at the signature that runs, whose order of inputs and outputs is the source's.

    Attributes:
        path: The artifact.
        manifest: The bundle's; None for a bare artifact.
        format: ``tflite`` or ``onnx``.
        engine: The engine's name.
        delegate: Where it executes.
        execution: What really executes it.
        stateful: Whether it keeps something from one call to the next, until `reset`.
        concurrent: Whether calls of several threads run at the same time; else one after the other.
        inputs: Name, shape, stored dtype and quantization of each input.
        outputs: The same of each output.
        signature: The name of the signature that runs; empty where the artifact has none.
        signatures: The names of all its signatures; `load` takes one of them.
    """

    def __init__(self, path: Path, format_name: str, engine: Engine, manifest: Manifest | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.format = format_name
        self.engine = engine.name
        self.delegate = engine.execution.delegate
        self.stateful, self.concurrent = engine.stateful, engine.concurrent
        self.signature, self.signatures = engine.signature, engine.signatures
        self._engine = engine
        self._lock = threading.Lock()
        self._classifier: Classifier | None = None
        self.inputs = _ordered(path, engine.inputs, manifest.inputs if manifest else engine.inputs)
        self.outputs = _ordered(path, engine.outputs, manifest.outputs if manifest else engine.outputs)
        self._slots = {spec.name: slot for slot, spec in enumerate(engine.inputs)}
        self._real, self._raw = _plan(engine, self._lock, raw=False), _plan(engine, self._lock, raw=True)
        slots = {spec.name: slot for slot, spec in enumerate(engine.outputs)}
        self._results = [(spec.name, slots[spec.name]) for spec in self.outputs]

    def __call__(self, *args: Any, raw: bool = False, **named: Any) -> Array | dict[str, Array]:
        """Run once.

        Args:
            args: The only input, or one mapping of arrays by input name.
            raw: Give and get stored integers instead of real values.
            named: Arrays by input name.

        Returns:
            The only output, or a dict of outputs by name. Quantized ones are float32 unless `raw`.

        Raises:
            DataError: If a name, shape or dtype does not fit.
            EngineError: If the engine fails.
        """
        plan = self._raw if raw else self._real
        if not named and len(args) == 1 and isinstance(args[0], np.ndarray) and len(self._slots) == 1:
            found = plan(args)
        else:
            found = plan(self._arrange(_by_name(args, named, self.inputs)))
        if len(found) == 1:
            return found[0]
        return {name: found[slot] for name, slot in self._results}

    def run(self, feeds: Mapping[str, Any], *, raw: bool = False) -> dict[str, Array]:
        """Run once, with all inputs and all outputs by name.

        Args:
            feeds: An array for each input.
            raw: Give and get stored integers instead of real values.

        Raises:
            DataError: If a name, shape or dtype does not fit.
            EngineError: If the engine fails.
        """
        found = (self._raw if raw else self._real)(self._arrange(feeds))
        return {name: found[slot] for name, slot in self._results}

    def _arrange(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Bring feeds into the engine's order."""
        for name in feeds:
            if name not in self._slots:
                raise DataError(f"input {name!r}", "is none of the model's", f"valid are {', '.join(self._slots)}")
        missing = [name for name in self._slots if name not in feeds]
        if missing:
            raise DataError(self.path, f"was given no input {', '.join(missing)}", "give an array for each input")
        return [feeds[name] for name in self._slots]

    @property
    def engine_version(self) -> str:
        """The engine's version."""
        return self._engine.version

    @property
    def execution(self) -> Execution:
        """What really executes it, as far as it can be known."""
        return self._engine.execution

    def predict_batches(
        self, samples: Iterable[Any], batch_size: int = 32, *, raw: bool = False
    ) -> Iterator[Array | dict[str, Array]]:
        """Run over a stream of samples, holding one batch of it in memory at a time.

        Args:
            samples: Each an array, or a mapping of arrays by input name, without the batch axis or with one of 1.
            batch_size: Samples to an answer; the last answer has fewer where they do not come out even. A model
                whose batch is fixed is run as often as that needs; the last run is padded, and its padding cut off.
            raw: Give and get stored integers instead of real values.

        Yields:
            For each batch what a call returns, with as many rows as it has samples.

        Raises:
            UsageError: If `batch_size` is less than 1.
            DataError: If a sample does not fit, or an output has no batch axis.
            EngineError: If the engine fails.
        """
        from edgeferry_runtime.batches import predict_batches

        return predict_batches(self, samples, batch_size, raw=raw)

    def classify(
        self, image: str | os.PathLike[str] | bytes | Array, top: int = 5, *, classifier: Classifier | None = None
    ) -> list[Prediction]:
        """Name what a picture shows.

        Args:
            image: A file, the bytes of one, or uint8 pixels of [height, width, channels] in red, green, blue.
            top: How many classes to return.
            classifier: What the model's own metadata does not tell; see `classifier`.

        Returns:
            The most likely classes, best first; of equal ones, that of the lower number first.

        Raises:
            UsageError: If `top` is less than 1.
            MissingFileError: If there is no such file.
            MissingExtraError: If Pillow is needed and not installed.
            DataError: If it is no picture, or the metadata does not tell how to go from a picture to classes.
            EngineError: If the engine fails.
        """
        if classifier is None:
            classifier = self._classifier = self._classifier or self.classifier()
        return classifier.best(self.run(classifier.feeds(image)), top)

    def classifier(
        self,
        *,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        logits: bool | None = None,
    ) -> Classifier:
        """Tell how the model goes from a picture to classes, from its bundle, its metadata and its graph.

        Args:
            preprocess: How pixels become the input; without it, as the manifest or the artifact's metadata says.
            labels: One name per class; without them, those of the bundle or of the artifact.
            logits: Whether a softmax is to be applied; without it, the operator that computes the scores decides.

        Raises:
            DataError: If something of it is neither given nor told. Nothing is guessed.
        """
        from edgeferry_runtime.classification import make_classifier

        return make_classifier(self, preprocess, labels, logits)

    def reset(self) -> None:
        """Set what the model keeps from one call to the next back to what it begins with.

        LiteRT: variable tensors (an LSTM's state) and resource variables. ONNX models keep nothing; their state
        goes in and out by inputs and outputs.

        Raises:
            EngineError: If the model was closed, or the engine fails.
        """
        with self._lock:
            if self._real == self._closed:
                self._closed(())
            self._engine.reset()

    def close(self) -> None:
        """Let go of the engine and its memory, after the calls of other threads; a later run is an EngineError."""
        self._real = self._raw = self._closed
        with self._lock:
            self._engine.close()

    def _closed(self, values: Sequence[Any]) -> list[Array]:
        raise EngineError(self.path, "was closed", "load it again")

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        sides = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"<Model {self.path.name}: {' -> '.join(sides)} on {self.engine} {self.engine_version}, {self.delegate}>"


def _plan(engine: Engine, lock: threading.Lock, *, raw: bool) -> Callable[[Sequence[Any]], list[Array]]:
    """Return the hot path: from values to outputs, both in the engine's order and complete."""
    execute = _executor(engine, [encoder(spec, raw) for spec in engine.inputs], lock)
    decoders = [None if raw else decoder(spec) for spec in engine.outputs]

    def decode_too(values: Sequence[Any]) -> list[Array]:
        return [decode(value) if decode else value for decode, value in zip(decoders, execute(values), strict=True)]

    return decode_too if any(decoders) else execute


def _executor(
    engine: Engine, encoders: Sequence[Encode], lock: threading.Lock
) -> Callable[[Sequence[Any]], list[Array]]:
    """Return what encodes values and runs the engine, which only one thread at a time may call if it says so."""
    if len(encoders) != 1:
        guard = contextlib.nullcontext() if engine.concurrent else lock

        def execute_all(values: Sequence[Any]) -> list[Array]:
            feeds = [encode(value) for encode, value in zip(encoders, values, strict=True)]
            with guard:
                return engine.run(feeds)

        return execute_all
    (encode,), run = encoders, engine.run

    def execute(values: Sequence[Any]) -> list[Array]:
        feeds = (encode(values[0]),)
        with lock:
            return engine.run(feeds)

    return (lambda values: run((encode(values[0]),))) if engine.concurrent else execute


def _by_name(args: tuple[Any, ...], named: dict[str, Any], inputs: tuple[TensorSpec, ...]) -> Mapping[str, Any]:
    """Read the ways to give inputs."""
    if not args:
        return named
    if len(args) == 1 and not named:
        if isinstance(args[0], Mapping):
            return args[0]
        if len(inputs) == 1:
            return {inputs[0].name: args[0]}
    names = ", ".join(spec.name for spec in inputs)
    reason = f"takes {len(inputs)} inputs by name" if len(inputs) > 1 else "takes one input"
    raise DataError("the model", reason, f"give {names} by keyword, or as one mapping")


def _ordered(path: Path, found: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Bring what the engine found into the order of the manifest."""
    by_name = {spec.name: spec for spec in found}
    names = [spec.name for spec in wanted]
    if sorted(by_name) != sorted(names):
        reason = f"has {', '.join(by_name)} where its manifest has {', '.join(names)}"
        raise BundleError(path, reason, "convert the source again")
    return tuple(by_name[name] for name in names)
