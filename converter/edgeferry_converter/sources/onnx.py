"""ONNX files as sources."""

from __future__ import annotations

from pathlib import Path

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.tensors import refuse_shapes
from edgeferry_converter.sources.versions import versions
from edgeferry_runtime.errors import CorruptFileError


def open_source(spec: SourceSpec) -> Source:
    """Check an ONNX file, its external data included, and load it into ONNX Runtime.

    Raises:
        CorruptFileError: If the ONNX checker refuses it.
        EngineError: If ONNX Runtime refuses it, or dies of it.
    """
    refuse_shapes("onnx", spec.shapes)
    onnx = require(spec.path, "quantize", "onnx")
    with foreign(spec.path, "the ONNX checker refused it", AGAIN, CorruptFileError):
        onnx.checker.check_model(str(spec.path))
    return ArtifactSource(load_doubtful(spec.path), _normalize, versions("onnx"))


def _normalize(path: Path) -> bytes:
    """Gather external data into the file, and infer shapes."""
    import onnx

    from edgeferry_converter.sources import onnx_graph

    with foreign(path, "onnx could not read it", AGAIN, CorruptFileError):
        model = onnx.load(str(path))
    return onnx_graph.finish(path, model)
