"""ONNX files as sources: checked, their external data followed, and brought up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.artifact import ArtifactSource, load_doubtful
from edgeferry_converter.sources.constants import check_constants
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.tensors import Shapes, in_order, with_shapes
from edgeferry_converter.sources.versions import versions
from edgeferry_runtime.errors import CorruptFileError
from edgeferry_runtime.tensors import Array, TensorSpec
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model


def open_source(spec: SourceSpec) -> Source:
    """Check an ONNX file, its external data included, and load it into ONNX Runtime.

    Raises:
        CorruptFileError: If the ONNX checker refuses it.
        ArtifactError: If a weight is no number.
        EngineError: If ONNX Runtime refuses it, or dies of it.
        UsageError: If a shape contradicts what the file declares, or an input cannot be constant.
    """
    large = _check(spec.path) > onnx_file.LARGEST
    model = _load_large(spec.path) if large else load_doubtful(spec.path)
    held = _held(spec, model.inputs)
    source = OnnxSource(spec.path, model, partial(_normalize, spec.shapes, held), versions("onnx"))
    source.held = held
    source.inputs = with_shapes([t for t in source.inputs if t.name not in held], spec.shapes)
    return source


class OnnxSource(ArtifactSource):
    """An ONNX file as a source: the file as it is runs, and what is written is brought up to date.

    Attributes:
        held: Inputs that are constants; the artifact has them no more.
    """

    held: Mapping[str, Array]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once."""
        in_order(self.path, self.inputs, feeds)
        return self._model.run({**feeds, **self.held})

    def _write(self, path: Path) -> None:
        self.notes = self._normalize(self.path, path)


def _held(spec: SourceSpec, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the inputs that the user made constant: single numbers only."""
    kinds = {t.name: t.dtype.strip("u0123456789") for t in inputs if t.shape in ((), (1,))}
    kinds = {name: kind for name, kind in kinds.items() if kind in ("int", "float", "bool")}
    check_constants(spec.constants, kinds, [t.name for t in inputs if t.name not in kinds])
    return {t.name: np.full(t.shape, spec.constants[t.name], t.dtype) for t in inputs if t.name in spec.constants}


def _check(path: Path) -> int:
    """Check the graph and every weight; return the bytes that all weights take."""
    onnx = require(path, "quantize", "onnx")
    with foreign(path, "the ONNX checker refused it", AGAIN, CorruptFileError):
        onnx.checker.check_model(str(path))
        model = onnx_file.read(path)
    check_finite(path, _weights(path, model), masks=True)
    return onnx_file.size(model)


def _load_large(path: Path) -> Model:
    """Load a model whose weights shall stay in their file: it is kept beside the artifact that is made of it."""
    from edgeferry_runtime.engines import Delegate
    from edgeferry_runtime.engines.onnxruntime import open_engine
    from edgeferry_runtime.guard import try_in_child
    from edgeferry_runtime.model import Model

    try_in_child(path)
    engine: Any = open_engine(path, Delegate(), prepack=False)
    return Model(path, "onnx", engine)


def _weights(path: Path, model: Any) -> Iterator[tuple[str, Array]]:
    """Read one weight after the other, those in other files too."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (1, 10, 11):  # float32, float16, float64
            with foreign(path, f"its weight {tensor.name!r} cannot be read", AGAIN, CorruptFileError):
                values = onnx_file.values(tensor)
            yield tensor.name, values


def _normalize(shapes: Shapes, held: Mapping[str, Array], path: Path, target: Path) -> tuple[str, ...]:
    """Gather external data into the file where it fits, pin sizes, raise the operator set, and infer shapes.

    Returns:
        What is to be said of it.
    """
    from edgeferry_converter.sources import onnx_branches, onnx_graph, onnx_upgrade

    with foreign(path, "onnx could not read it", AGAIN, CorruptFileError):
        model = onnx_file.read(path)
    onnx_graph.hold(model, held)
    onnx_upgrade.pin(model, shapes)
    model, notes = onnx_branches.simplify(model)
    model, note = onnx_upgrade.upgrade(model)
    if onnx_file.size(model) > onnx_file.LARGEST:
        _write_split(path, model, target)
    else:
        target.write_bytes(onnx_graph.finish(path, model))
    return (*notes, note) if note else notes


def _write_split(path: Path, model: Any, target: Path) -> None:
    """Write a model that one file cannot hold; the checker follows its weights only from the file."""
    import onnx

    from edgeferry_converter.sources import onnx_graph

    weights = target.with_name(f"{target.name}.data")
    with (
        undo_on_error(lambda: target.unlink(missing_ok=True)),
        undo_on_error(lambda: weights.unlink(missing_ok=True)),
        foreign(path, "the ONNX checker refused the graph"),
    ):
        onnx_file.write(onnx_graph.infer(model), target)
        onnx.checker.check_model(str(target))
