"""Metadata of ONNX files: ``metadata_props``.

Source: ONNX's ``MetadataProps.md`` for the keys ``Image.*``; ``labels`` and ``preprocessing`` are JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgeferry_converter.metadata import Description
from edgeferry_converter.quiet import foreign
from edgeferry_runtime import __version__
from edgeferry_runtime.preprocess import Preprocess

PIXELS = {"rgb": "Rgb8", "bgr": "Bgr8", "gray": "Gray8"}
RANGES = {(0.0, 255.0): "NominalRange_0_255", (0.0, 1.0): "Normalized_0_1", (-1.0, 1.0): "Normalized_1_1"}


def embed(path: Path, description: Description) -> bytes:
    """Return a model with a description; keys that were there before are replaced.

    Raises:
        ConversionError: If onnx cannot read it.
    """
    import onnx

    with foreign(path, "onnx could not read it"):
        model = onnx.load(str(path), load_external_data=False)
        kept = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, {**kept, **_props(description)})
        content: bytes = model.SerializeToString(deterministic=True)
    return content


def _props(description: Description) -> dict[str, str]:
    props = {"edgeferry.name": description.name, "edgeferry.version": __version__}
    if description.labels:
        props["labels"] = json.dumps(description.labels, ensure_ascii=False)
    if description.preprocess:
        props["preprocessing"] = json.dumps(description.preprocess.to_dict())
        props["Image.BitmapPixelFormat"] = PIXELS[description.preprocess.color]
        props |= _range(description.preprocess)
    return props


def _range(preprocess: Preprocess) -> dict[str, str]:
    """Name the range of pixels where the format has a name for it."""
    low, high = (round((p * preprocess.scale - preprocess.mean[0]) / preprocess.std[0], 2) for p in (0, 255))
    found = RANGES.get((low, high))
    alike = len({*preprocess.mean}) == len({*preprocess.std}) == 1
    return {"Image.NominalPixelRange": found} if found and alike else {}
