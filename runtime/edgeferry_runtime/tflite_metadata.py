"""The entry ``TFLITE_METADATA`` of a TFLite file: what its inputs and outputs mean, whoever wrote it.

Source: ``metadata_schema.fbs`` 1.5.0 of TFLite Support and MediaPipe. Slots stand in the order of that schema.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeferry_runtime.flatbuffer import Buffer, Table, parse_layouts, verify
from edgeferry_runtime.preprocess import Preprocess

ENTRY = "TFLITE_METADATA"

IMAGE, NORMALIZATION, AXIS_LABELS, VALUE_LABELS = 2, 1, 2, 3
"""Members of the unions ContentProperties and ProcessUnitOptions, and of the enum AssociatedFileType."""

COLORS = {"rgb": 1, "gray": 2}
"""The enum ColorSpaceType; others are 0, unknown."""

SCHEMA: Mapping[str, str] = {
    "ModelMetadata": "s s s [SubGraphMetadata s s [AssociatedFile s",
    "SubGraphMetadata": "s s [TensorMetadata [TensorMetadata [AssociatedFile [ProcessUnit [ProcessUnit [Group [Group",
    "TensorMetadata": "s s [s Content [ProcessUnit Stats [AssociatedFile",
    "Content": "1 ContentProperties? ValueRange",
    "ContentProperties.2": "1 ImageSize",
    "ImageSize": "4 4",
    "ProcessUnit": "1 ProcessUnitOptions?",
    "ProcessUnitOptions.1": "[4 [4",
    "AssociatedFile": "s s 1 s s",
    "Stats": "[4 [4",
    "Group": "s [s",
}
"""Layouts for `edgeferry_runtime.flatbuffer.verify`; tables without references are left out."""


@dataclass(frozen=True)
class Picture:
    """What is said of an input that is a picture.

    Attributes:
        color: ``rgb`` or ``gray``; empty where it is not said.
        size: Height and width in pixels, where they are said.
    """

    color: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Tensor:
    """What is said of one input or output.

    Attributes:
        name: Its name.
        preprocess: How pictures become it; only written, and read as `picture`, `mean` and `std`.
        labels: The file with the names of its classes; empty where it has none.
        mean: What is subtracted from pixels of 0..255; only read, since it follows from `preprocess`.
        std: What they are divided by then; likewise.
        picture: That it is one; likewise.
        text: What viewers show of it, most of which know neither normalization nor labels.
    """

    name: str
    preprocess: Preprocess | None = None
    labels: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    picture: Picture | None = None
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


def find(data: Buffer) -> Metadata | None:
    """Read the metadata of a verified TFLite file; None where it has none.

    Raises:
        FlatbufferError: If it is damaged.
    """
    model = Table.root(data)
    places = [entry.u32(1) for entry in model.tables(6) if entry.text(0) == ENTRY]
    content = model.tables(4)[places[0]].raw(0) if places else b""
    return read(content) if content else None


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
    mean, std = _read_normalization(table.tables(4))
    picture = _read_picture(table.table(3))
    labels = _read_labels(table.tables(6))
    return Tensor(table.text(0), labels=labels, mean=mean, std=std, picture=picture, text=table.text(1))


def _read_labels(files: Sequence[Table]) -> str:
    """Name the file of labels; of several, the one for no language in particular."""
    found = [file for file in files if file.u8(2) in (AXIS_LABELS, VALUE_LABELS)]
    plain = [file for file in found if not file.text(3)]
    return (plain or found)[0].text(0) if found else ""


def _read_picture(content: Table | None) -> Picture | None:
    properties = content.table(1) if content and content.u8(0) == IMAGE else None
    if properties is None:
        return None
    names = {number: name for name, number in COLORS.items()}
    size = properties.table(1)
    return Picture(names.get(properties.u8(0), ""), (size.u32(1), size.u32(0)) if size else None)


def _read_normalization(units: Sequence[Table]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for unit in units:
        options = unit.table(1)
        if options and unit.u8(0) == NORMALIZATION:
            return _read_floats(options.ints(0)), _read_floats(options.ints(1))
    return (), ()


def _read_floats(bits: tuple[int, ...]) -> tuple[float, ...]:
    return struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}i", *bits))
