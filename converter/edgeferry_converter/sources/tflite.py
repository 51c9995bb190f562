"""TFLite files as sources; no training framework is ever imported for them."""

from __future__ import annotations

from pathlib import Path

from edgeferry_converter.sources import Source, SourceSpec, signature
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.tensors import refuse_shapes


def open_source(spec: SourceSpec) -> Source:
    """Load a TFLite file into LiteRT.

    Raises:
        CorruptFileError: If its flatbuffer is damaged.
        EngineError: If LiteRT refuses it, or dies of it.
    """
    refuse_shapes("tflite", spec.shapes)
    return ArtifactSource(load_doubtful(spec.path), _normalize, {})


def _normalize(path: Path) -> bytes:
    """Give the file a signature if it has none."""
    return signature.ensure(path.read_bytes())
