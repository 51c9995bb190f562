"""Writes the flatbuffer of TFLite metadata; `edgeferry_runtime.tflite_metadata` has what it says and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tflite_metadata import AXIS_LABELS, COLORS, IMAGE, NORMALIZATION, Metadata, Tensor, read

__all__ = ["Metadata", "Tensor", "normalization", "read", "write"]

IDENTIFIER = b"M001"
PARSER = "1.0.0"
"""The oldest reader that understands all that is written here."""


def write(metadata: Metadata) -> bytes:
    """Return the flatbuffer; the same bytes for the same metadata."""
    import flatbuffers

    b = flatbuffers.Builder(1024)
    inputs, outputs = (_vector(b, [_tensor(b, t) for t in side]) for side in (metadata.inputs, metadata.outputs))
    subgraph = _table(b, None, None, ("ref", inputs), ("ref", outputs))
    subgraphs = _vector(b, [subgraph])
    name, text, parser = (_text(b, value) for value in (metadata.name, metadata.text, PARSER))
    b.Finish(_table(b, name, text, None, ("ref", subgraphs), None, None, None, parser), IDENTIFIER)
    return bytes(b.Output())


Slot = tuple[str, int] | None


def _table(b: Any, *slots: Slot) -> int:
    b.StartObject(len(slots))
    for i, slot in enumerate(slots):
        if slot is None:
            continue
        kind, value = slot
        if kind == "ref":
            b.PrependUOffsetTRelativeSlot(i, value, 0)
        elif kind == "u8":
            b.PrependUint8Slot(i, value, 0)
        else:
            b.PrependUint32Slot(i, value, 0)
    return int(b.EndObject())


def _text(b: Any, text: str) -> Slot:
    return ("ref", b.CreateString(text)) if text else None


def _vector(b: Any, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, values: Sequence[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())


def _tensor(b: Any, tensor: Tensor) -> int:
    name, text = _text(b, tensor.name), _text(b, tensor.text)
    content = units = files = None
    if tensor.preprocess and tensor.preprocess.scale:
        content, units = ("ref", _image(b, tensor.preprocess)), ("ref", _vector(b, [_normalize(b, tensor.preprocess)]))
    if tensor.labels:
        files = ("ref", _vector(b, [_labels(b, tensor.labels)]))
    return _table(b, name, text, None, content, units, None, files)


def _image(b: Any, preprocess: Preprocess) -> int:
    size: Slot = None
    if preprocess.resize:
        height, width = preprocess.resize
        size = ("ref", _table(b, ("u32", width), ("u32", height)))
    image = _table(b, ("u8", COLORS.get(preprocess.color, 0)), size)
    return _table(b, ("u8", IMAGE), ("ref", image))


def _normalize(b: Any, preprocess: Preprocess) -> int:
    mean, std = normalization(preprocess)
    options = _table(b, ("ref", _floats(b, mean)), ("ref", _floats(b, std)))
    return _table(b, ("u8", NORMALIZATION), ("ref", options))


def normalization(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Return mean and std of (pixel - mean) / std, which is our (pixel * scale - mean) / std."""
    return [m / preprocess.scale for m in preprocess.mean], [s / preprocess.scale for s in preprocess.std]


def _labels(b: Any, name: str) -> int:
    text, about = _text(b, name), _text(b, "One class name a line")
    return _table(b, text, about, ("u8", AXIS_LABELS))
