"""TFLite files as sources; no training framework is ever imported for them."""

from __future__ import annotations

from pathlib import Path

from edgeferry_converter.sources import Source, SourceSpec, signature, tflite_edit
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.signature import left_out, primary_first
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tflite_file import read_tflite


def open_source(spec: SourceSpec) -> Source:
    """Load a TFLite file into LiteRT, with the signatures and the sizes that were asked for.

    Raises:
        CorruptFileError: If its flatbuffer is damaged.
        ArtifactError: If a weight is no number.
        EngineError: If LiteRT refuses it, or dies of it.
        UnknownNameError: If it has no such signature, or a shape names no input.
    """
    model = load_doubtful(spec.path)
    original = spec.path.read_bytes()
    check_finite(spec.path, tflite_edit.float_weights(original), masks=True)
    chosen = primary_first(spec.signature)
    content = tflite_edit.choose_signatures(original, chosen) if chosen else original
    content = signature.ensure(content)
    if spec.shapes:
        content = tflite_edit.pin(spec.path, content, spec.shapes)
    edited = spec.shapes or spec.signature
    entries = _load(content) if edited else _entries(spec.path, model)
    primary = next(iter(entries.values()))
    source = ArtifactSource(spec.path, primary, lambda path: content, {})
    source.signatures = entries if len(entries) > 1 else {}
    if chosen:
        source.notes = left_out(chosen, [s.key for s in read_tflite(original).signatures if s.key not in chosen])
    return source


def _load(content: bytes) -> dict[str, Model]:
    """Load a file that was changed; LiteRT keeps it mapped after the folder is gone."""
    with scratch() as folder:
        (folder / "model.tflite").write_bytes(content)
        return _entries(folder / "model.tflite", load_doubtful(folder / "model.tflite"))


def _entries(path: Path, primary: Model) -> dict[str, Model]:
    """Load each signature of a file whose primary one was loaded, which stays first."""
    others = (key for key in primary.signatures if key != primary.signature)
    return {primary.signature: primary, **{key: load(path, signature=key) for key in others}}
