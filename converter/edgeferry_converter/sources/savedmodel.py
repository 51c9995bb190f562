"""SavedModel folders: the signature that serves is the model."""

from __future__ import annotations

from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.tensorflow_lowering import Call, TensorFlowSource
from edgeferry_converter.sources.tensors import with_shapes
from edgeferry_runtime.errors import ArtifactError
from edgeferry_runtime.tensors import TensorSpec

SERVING = "serving_default"


def open_source(spec: SourceSpec) -> Source:
    """Load a SavedModel and take its serving signature, or the only one that it has.

    A signature keeps no order: inputs and outputs are sorted by name.

    Raises:
        CorruptFileError: If it is damaged.
        ArtifactError: If TensorFlow cannot load it, or it has no signature to take.
    """
    tf = require(spec.path, "keras", "tensorflow")
    require(spec.path, "keras", "tf_keras")  # what Keras 2 saved loads only where its classes are registered
    with foreign(spec.path, "TensorFlow could not load it", "save or copy the whole folder again", ArtifactError):
        loaded = tf.saved_model.load(str(spec.path))
    signature = _signature(spec, loaded)
    inputs = tuple(_spec(name, t) for name, t in sorted(signature.structured_input_signature[1].items()))
    outputs = sorted(signature.structured_outputs)

    def call(*tensors: Any) -> list[Any]:
        answers = signature(**{t.name: tensor for t, tensor in zip(inputs, tensors, strict=True)})
        return [answers[name] for name in outputs]

    origin = (spec.path, "savedmodel")
    return TensorFlowSource(origin, "tensorflow", Call(call, loaded), with_shapes(inputs, spec.shapes), outputs)


def _signature(spec: SourceSpec, loaded: Any) -> Any:
    signatures = dict(loaded.signatures)
    if SERVING in signatures or len(signatures) == 1:
        return signatures.get(SERVING) or next(iter(signatures.values()))
    found = f"its signatures are {', '.join(signatures)}" if signatures else "it has no signature"
    raise ArtifactError(spec.path, found, f"save it with one called {SERVING}: model.export(FOLDER)")


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(-1 if d is None else int(d) for d in tensor.shape), tensor.dtype.name)
