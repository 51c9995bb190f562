"""ONNX files as sources: checked, their external data followed, and brought up to date."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.tensors import Shapes, with_shapes
from edgeferry_converter.sources.versions import versions
from edgeferry_runtime.errors import ConversionError, CorruptFileError
from edgeferry_runtime.tensors import Array

LARGEST = 2**31 - 2**20
"""Bytes that one ONNX file can hold: protobuf ends at 2 GiB."""


def open_source(spec: SourceSpec) -> Source:
    """Check an ONNX file, its external data included, and load it into ONNX Runtime.

    Raises:
        CorruptFileError: If the ONNX checker refuses it.
        ArtifactError: If a weight is no number.
        EngineError: If ONNX Runtime refuses it, or dies of it.
        UsageError: If a shape contradicts what the file declares.
    """
    onnx = require(spec.path, "quantize", "onnx")
    with foreign(spec.path, "the ONNX checker refused it", AGAIN, CorruptFileError):
        onnx.checker.check_model(str(spec.path))
        graph = onnx.load(str(spec.path), load_external_data=False).graph
    check_finite(spec.path, _weights(spec.path, graph), masks=True)
    model = load_doubtful(spec.path)
    source = OnnxSource(spec.path, model, partial(_normalize, spec.shapes), versions("onnx"))
    source.inputs = with_shapes(source.inputs, spec.shapes)
    return source


class OnnxSource(ArtifactSource):
    """An ONNX file as a source: the file as it is runs, and what is written is brought up to date."""

    def lower(self, to: str, path: Path) -> None:
        """Write the file brought up to date, and say what that changed."""
        super().lower(to, path)
        self.notes = (self._note,) if self._note else ()

    _note = ""

    def _content(self) -> bytes:
        content: bytes
        content, self._note = self._normalize(self.path)
        return content


def _weights(path: Path, graph: Any) -> Iterator[tuple[str, Array]]:
    """Read one weight after the other, those in other files too."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type in (1, 10, 11):  # float32, float16, float64
            with foreign(path, f"its weight {tensor.name!r} cannot be read", AGAIN, CorruptFileError):
                values: Array = numpy_helper.to_array(tensor, str(path.parent))
            yield tensor.name, values


def _normalize(shapes: Shapes, path: Path) -> tuple[bytes, str]:
    """Gather external data into the file, pin sizes, raise the operator set, and infer shapes."""
    import onnx

    from edgeferry_converter.sources import onnx_graph, onnx_upgrade

    with foreign(path, "onnx could not read it", AGAIN, CorruptFileError):
        model = onnx.load(str(path))
        size = model.ByteSize()
    if size > LARGEST:
        reason = f"holds {size:,} bytes, and one ONNX file can hold {LARGEST:,}"
        raise ConversionError(path, reason, "convert a smaller model: bundles keep the artifact in one file")
    onnx_upgrade.pin(model, shapes)
    model, note = onnx_upgrade.upgrade(model)
    return onnx_graph.finish(path, model), note
