"""What a model file tells about itself, without an engine and without a training framework."""

from __future__ import annotations

import os
from pathlib import Path

from edgeferry_converter.inspection.report import Inspection, Layer, Operator
from edgeferry_runtime.bundle import Bundle, is_bundle
from edgeferry_runtime.errors import UsageError

__all__ = ["Inspection", "Layer", "Operator", "inspect"]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read what a file alone tells: tensors, operators, parameters, multiply-accumulates, precision, memory.

    Args:
        path: A ``.tflite``, ``.onnx``, ``.keras`` or ``.h5`` file, a SavedModel folder, an exported program,
            TorchScript, or a bundle, whose artifact is read. Only TorchScript is loaded by its framework.

    Raises:
        MissingFileError: If there is no such file.
        ArtifactError: If it is damaged, or of an unknown format.
        UsageError: If it is Python: only running it would tell.
        MissingExtraError: If what reads the format is not installed.
    """
    from edgeferry_converter.sources import SourceSpec, detect

    file = Path(path)
    if file.is_dir() and is_bundle(file):
        bundle = Bundle.open(file)
        bundle.check()
        file = bundle.artifact
    if ".py" in file.suffix:
        raise UsageError(path, "is Python, which tells its layers only when it runs", "convert it, inspect the bundle")
    found = detect(SourceSpec(file))
    return _read(found, file)


def _read(found: str, file: Path) -> Inspection:
    """Read a file by the module that knows its format, importing no other."""
    if found == "tflite":
        from edgeferry_converter.inspection.tflite import inspect_tflite as read
    elif found == "onnx":
        from edgeferry_converter.inspection.onnx import inspect_onnx as read
    elif found == "savedmodel":
        from edgeferry_converter.inspection.savedmodel import inspect_savedmodel as read
    elif found == "exported":
        from edgeferry_converter.inspection.exported import inspect_exported as read
    elif found == "torchscript":
        from edgeferry_converter.inspection.torchscript import inspect_torchscript as read
    else:
        from edgeferry_converter.inspection.keras import inspect_keras

        return inspect_keras(file, found)
    return read(file)
