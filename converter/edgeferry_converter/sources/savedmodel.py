"""SavedModel folders: each signature is a way into the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.signature import KEY as SERVING
from edgeferry_converter.sources.signature import left_out, primary_first
from edgeferry_converter.sources.tensorflow_lowering import Call, TensorFlowSource, Traced
from edgeferry_converter.sources.tensors import check_shape_names, with_shapes
from edgeferry_runtime.errors import ArtifactError, CorruptFileError, UnknownNameError, UnsafeFileError
from edgeferry_runtime.tensors import TensorSpec

FILE_OPERATIONS = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PrintV2", "WriteGraphSummary", "ImportEvent", "SaveSlices"}
    | {"DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNumericSummary", "DebugNumericSummaryV2"}
)
"""Operations that read or write files of their own choice when the graph runs."""


def open_source(spec: SourceSpec) -> Source:
    """Load a SavedModel with the signatures that were asked for, or all of them.

    A signature keeps no order: inputs and outputs are sorted by name.

    Raises:
        UnsafeFileError: If its graph reads or writes files of its own choice.
        CorruptFileError: If it is damaged.
        UnknownNameError: If it has no such signature, or a shape names no input.
        ArtifactError: If TensorFlow cannot load it, or it has no signature to take.
    """
    tf = require(spec.path, "keras", "tensorflow")
    require(spec.path, "keras", "tf_keras")  # what Keras 2 saved loads only where its classes are registered
    _check_operations(spec)
    with foreign(spec.path, "TensorFlow could not load it", "save or copy the whole folder again", ArtifactError):
        loaded = tf.saved_model.load(str(spec.path))
    aliases = _aliases(loaded.signatures)
    keys = _choose(spec, [key for key in loaded.signatures if key not in aliases or key in spec.signature])
    found = {key: _inputs(loaded.signatures[key]) for key in keys}
    check_shape_names(spec.shapes, [t.name for inputs in found.values() for t in inputs])
    traced = {key: _traced(spec, loaded, key, inputs) for key, inputs in found.items()}
    source = TensorFlowSource((spec.path, "savedmodel"), "tensorflow", traced)
    left = [key for key in loaded.signatures if key not in keys and key not in aliases]
    same = [f"the signature {key!r} is {aliases[key]!r} by another name" for key in aliases if key not in keys]
    source.notes = (*left_out(keys, left), *same)
    if spec.one_signature and not spec.signature:
        source.warnings = left_out(keys, left)
    return source


def _traced(spec: SourceSpec, loaded: Any, key: str, inputs: tuple[TensorSpec, ...]) -> Traced:
    signature = loaded.signatures[key]
    check_finite(spec.path, ((v.name, v.numpy()) for v in signature.graph.variables), masks=True)
    outputs = sorted(signature.structured_outputs)

    def call(*tensors: Any) -> list[Any]:
        answers = signature(**{t.name: tensor for t, tensor in zip(inputs, tensors, strict=True)})
        return [answers[name] for name in outputs]

    shapes = {t.name: spec.shapes[t.name] for t in inputs if t.name in spec.shapes}
    return Traced(spec.path, Call(call, loaded), with_shapes(inputs, shapes), outputs)


def _inputs(signature: Any) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, t) for name, t in sorted(signature.structured_input_signature[1].items()))


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


def _choose(spec: SourceSpec, found: list[str]) -> tuple[str, ...]:
    """Return the keys of the signatures to take, the primary one first."""
    if not found:
        fix = f"save it with one called {SERVING}: model.export(FOLDER)"
        raise ArtifactError(spec.path, "it has no signature", fix)
    if spec.signature:
        for key in spec.signature:
            if key not in found:
                raise UnknownNameError("--signature", key, found)
        return primary_first(spec.signature)
    keys = primary_first(sorted(found))
    if spec.one_signature and keys[0] != SERVING and len(keys) > 1:
        reason = f"its signatures are {', '.join(keys)}, and --to onnx takes one"
        raise ArtifactError(spec.path, reason, f"choose one: --signature {keys[0]}")
    return keys[:1] if spec.one_signature else keys


def _aliases(signatures: Mapping[str, Any]) -> dict[str, str]:
    """Find signatures that are another one by a second name, as Keras exports them: by name the other's name."""
    if len(signatures) < 2:
        return {}
    seen: dict[object, str] = {}
    found: dict[str, str] = {}
    for key in primary_first(sorted(signatures)):
        first = seen.setdefault(_identity(signatures[key]), key)
        if first != key:
            found[key] = first
    return found


def _identity(signature: Any) -> tuple[object, ...]:
    """Return what is the same for two signatures that call the same function in the same way."""
    operations = (op for op in signature.graph.get_operations() if op.type != "Placeholder")
    body = tuple(op.node_def.SerializeToString(deterministic=True) for op in operations)
    captured = tuple(id(outer) for outer, _ in signature.graph.captures)
    return _inputs(signature), tuple(sorted(signature.structured_outputs.items())), captured, body


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(-1 if d is None else int(d) for d in tensor.shape), tensor.dtype.name)
