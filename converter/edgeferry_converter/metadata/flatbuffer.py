"""The flatbuffer of TFLite metadata.

Source: ``metadata_schema.fbs`` 1.5.0 of TFLite Support and MediaPipe. Slots stand in the order of that schema.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.flatbuffer import Table, parse_layouts, verify
from edgeferry_runtime.preprocess import Preprocess

IDENTIFIER = b"M001"
PARSER = "1.0.0"
"""The oldest reader that understands all that is written here."""

IMAGE, NORMALIZATION, AXIS_LABELS = 2, 1, 2
"""Members of the unions ContentProperties and ProcessUnitOptions, and of the enum AssociatedFileType."""

COLORS = {"rgb": 1, "gray": 2}
"""The enum ColorSpaceType; others are 0, unknown."""

SCHEMA: Mapping[str, str] = {
    "ModelMetadata": "s s s [SubGraphMetadata s s [AssociatedFile s",
    "SubGraphMetadata": "s s [TensorMetadata [TensorMetadata [AssociatedFile [ProcessUnit [ProcessUnit [Group [Group",
    "TensorMetadata": "s s [s Content [ProcessUnit Stats [AssociatedFile",
    "Content": "1 ContentProperties? ValueRange",
    "ProcessUnit": "1 ProcessUnitOptions?",
    "ProcessUnitOptions.1": "[4 [4",
    "AssociatedFile": "s s 1 s s",
    "Stats": "[4 [4",
    "Group": "s [s",
}
"""Layouts for `edgeferry_runtime.flatbuffer.verify`; tables without references are left out."""


@dataclass(frozen=True)
class Tensor:
    """What is said of one input or output.

    Attributes:
        name: Its name.
        preprocess: How pictures become it.
        labels: The file with the names of its classes; empty where it has none.
        mean: What is subtracted from pixels of 0..255; only read, since it follows from `preprocess`.
        std: What they are divided by then; likewise.
        text: What viewers show of it, most of which know neither normalization nor labels.
    """

    name: str
    preprocess: Preprocess | None = None
    labels: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Metadata:
    """What is said of a model.

    Attributes:
        name: Its name.
        text: Its description.
        inputs: In the order of the main graph.
        outputs: Likewise.
    """

    name: str
    text: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


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


def read(content: bytes) -> Metadata:
    """Read a metadata flatbuffer that anybody wrote.

    Raises:
        FlatbufferError: If it is damaged.
    """
    verify(content, parse_layouts(SCHEMA), "ModelMetadata")
    root = Table.root(content)
    subgraphs = root.tables(3)
    sides = (tuple(map(_read_tensor, subgraphs[0].tables(slot) if subgraphs else [])) for slot in (2, 3))
    return Metadata(root.text(0), root.text(1), *sides)


def _read_tensor(table: Table) -> Tensor:
    labels = [file.text(0) for file in table.tables(6)]
    mean, std = _read_normalization(table.tables(4))
    return Tensor(table.text(0), labels=labels[0] if labels else "", mean=mean, std=std, text=table.text(1))


def _read_normalization(units: Sequence[Table]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for unit in units:
        options = unit.table(1)
        if options and unit.u8(0) == NORMALIZATION:
            return _read_floats(options.ints(0)), _read_floats(options.ints(1))
    return (), ()


def _read_floats(bits: tuple[int, ...]) -> tuple[float, ...]:
    return struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}i", *bits))
