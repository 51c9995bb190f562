"""SavedModel folders: the signature that serves is the model."""

from __future__ import annotations

from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.tensorflow_lowering import Call, TensorFlowSource
from edgeferry_converter.sources.tensors import with_shapes
from edgeferry_runtime.errors import ArtifactError, CorruptFileError, UnknownNameError, UnsafeFileError
from edgeferry_runtime.tensors import TensorSpec

SERVING = "serving_default"

FILE_OPERATIONS = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PrintV2", "WriteGraphSummary", "ImportEvent", "SaveSlices"}
    | {"DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNumericSummary", "DebugNumericSummaryV2"}
)
"""Operations that read or write files of their own choice when the graph runs."""


def open_source(spec: SourceSpec) -> Source:
    """Load a SavedModel and take its serving signature, or the only one that it has.

    A signature keeps no order: inputs and outputs are sorted by name.

    Raises:
        UnsafeFileError: If its graph reads or writes files of its own choice.
        CorruptFileError: If it is damaged.
        ArtifactError: If TensorFlow cannot load it, or it has no signature to take.
    """
    tf = require(spec.path, "keras", "tensorflow")
    require(spec.path, "keras", "tf_keras")  # what Keras 2 saved loads only where its classes are registered
    _check_operations(spec)
    with foreign(spec.path, "TensorFlow could not load it", "save or copy the whole folder again", ArtifactError):
        loaded = tf.saved_model.load(str(spec.path))
    keys = list(loaded.signatures)
    key = _key(spec, keys)
    signature = loaded.signatures[key]
    check_finite(spec.path, ((v.name, v.numpy()) for v in signature.graph.variables), masks=True)
    inputs = tuple(_spec(name, t) for name, t in sorted(signature.structured_input_signature[1].items()))
    outputs = sorted(signature.structured_outputs)

    def call(*tensors: Any) -> list[Any]:
        answers = signature(**{t.name: tensor for t, tensor in zip(inputs, tensors, strict=True)})
        return [answers[name] for name in outputs]

    origin = (spec.path, "savedmodel")
    source = TensorFlowSource(origin, "tensorflow", Call(call, loaded), with_shapes(inputs, spec.shapes), outputs)
    source.notes = _notes(key, keys)
    return source


def _check_operations(spec: SourceSpec) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    with foreign(spec.path, "its saved_model.pb is truncated or damaged", AGAIN, CorruptFileError):
        saved = saved_model_pb2.SavedModel.FromString((spec.path / "saved_model.pb").read_bytes())
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        bodies = (graph.node, *(function.node_def for function in graph.library.function))
        found = {node.op for body in bodies for node in body} & FILE_OPERATIONS
        if found:
            reason = f"reads or writes files when it runs ({', '.join(sorted(found))})"
            raise UnsafeFileError(spec.path, reason, "remove these operations, and save the model again")


def _key(spec: SourceSpec, keys: list[str]) -> str:
    """Return the key of the signature that is the model."""
    if spec.signature is not None:
        if spec.signature not in keys:
            raise UnknownNameError("--signature", spec.signature, keys or ["none: it has no signature"])
        return spec.signature
    if SERVING in keys or len(keys) == 1:
        return SERVING if SERVING in keys else keys[0]
    if keys:
        raise ArtifactError(spec.path, f"its signatures are {', '.join(keys)}", f"choose one: --signature {keys[0]}")
    raise ArtifactError(spec.path, "it has no signature", f"save it with one called {SERVING}: model.export(FOLDER)")


def _notes(key: str, keys: list[str]) -> tuple[str, ...]:
    """Say what becomes of several signatures."""
    others = ", ".join(other for other in keys if other != key)
    return (f"the signature {key!r} is the model; left out: {others}",) if others else ()


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(-1 if d is None else int(d) for d in tensor.shape), tensor.dtype.name)
