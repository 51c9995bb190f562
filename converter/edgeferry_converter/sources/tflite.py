"""TFLite files as sources; no training framework is ever imported for them."""

from __future__ import annotations

from edgeferry_converter.sources import Source, SourceSpec, signature, tflite_edit
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.finite import check_finite
from edgeferry_runtime.model import Model
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tflite_file import read_tflite


def open_source(spec: SourceSpec) -> Source:
    """Load a TFLite file into LiteRT, with the signature and the sizes that were asked for.

    Raises:
        CorruptFileError: If its flatbuffer is damaged.
        ArtifactError: If a weight is no number.
        EngineError: If LiteRT refuses it, or dies of it.
        UnknownNameError: If it has no such signature, or a shape names no input.
    """
    model = load_doubtful(spec.path)
    original = spec.path.read_bytes()
    check_finite(spec.path, tflite_edit.float_weights(original), masks=True)
    content = tflite_edit.choose_signature(original, spec.signature) if spec.signature else original
    content = signature.ensure(content)
    if spec.shapes:
        content = tflite_edit.pin(spec.path, content, spec.shapes)
    edited = spec.shapes or spec.signature
    source = ArtifactSource(spec.path, _load(content) if edited else model, lambda path: content, {})
    source.notes = _notes(original, spec.signature)
    return source


def _load(content: bytes) -> Model:
    """Load a file that was changed; LiteRT keeps it mapped after the folder is gone."""
    with scratch() as folder:
        (folder / "model.tflite").write_bytes(content)
        return load_doubtful(folder / "model.tflite")


def _notes(original: bytes, chosen: str | None) -> tuple[str, ...]:
    """Say what becomes of several signatures."""
    keys = [entry.key for entry in read_tflite(original).signatures]
    others = ", ".join(key for key in keys if key != chosen)
    return (f"the signature {chosen!r} is the model; left out: {others}",) if chosen and others else ()
