"""What an artifact's own metadata tells of pictures and classes. Nothing is guessed: what is missing is said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.flatbuffer import Buffer, FlatbufferError, Table, map_file
from edgeferry_runtime.labels import archive_labels, artifact_labels
from edgeferry_runtime.onnx_wire import read_metadata
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tensors import TensorSpec
from edgeferry_runtime.tflite_file import read_tflite
from edgeferry_runtime.tflite_metadata import Metadata, Tensor, find

FORMATS = {"Rgb8": "rgb", "Bgr8": "bgr", "Gray8": "gray"}
RANGES = {"NominalRange_0_255": (0.0, 255.0), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (-1.0, 1.0)}
"""Of ONNX's ``Image.BitmapPixelFormat`` and ``Image.NominalPixelRange`` (its ``MetadataProps.md``)."""


@dataclass(frozen=True)
class Told:
    """What the metadata says.

    Attributes:
        picture: The input that is a picture; empty where none is said to be.
        preprocess: How pixels become it; None where that is not said.
        doubt: What is missing for it, as the end of a sentence that begins with the file.
        labels: One name per class; empty where there are none.
        output: The output that the labels belong to; empty where that is not said.
    """

    picture: str = ""
    preprocess: Preprocess | None = None
    doubt: str = "does not say how a picture becomes its input"
    labels: tuple[str, ...] = ()
    output: str = ""


def read_told(path: Path, format_name: str, inputs: Sequence[TensorSpec]) -> Told:
    """Read the metadata of a verified artifact.

    Args:
        path: The artifact.
        format_name: ``tflite`` or ``onnx``.
        inputs: The model's inputs.
    """
    with map_file(path) as data:
        return _told_by_tflite(path, data, inputs) if format_name == "tflite" else _told_by_onnx(path, data, inputs)


def channel_axis(spec: TensorSpec, channels: int) -> int | None:
    """Return the axis of a picture's channels, 3 before 1; None where a tensor cannot be a picture of so many."""
    return next((axis for axis in (3, 1) if len(spec.shape) == 4 and spec.shape[axis] == channels), None)


def _told_by_tflite(path: Path, data: Buffer, inputs: Sequence[TensorSpec]) -> Told:
    try:
        metadata = find(data) or Metadata("", "", (), ())
    except FlatbufferError as error:
        return Told(doubt=f"has damaged metadata ({error})", labels=artifact_labels(path, "tflite"))
    sources, targets = main_ports(data)
    files = [(name, said.labels) for name, said in zip(targets, metadata.outputs, strict=False) if said.labels]
    output, file = files[0] if len(files) == 1 else ("", "")
    labels = archive_labels(path, file)
    by_name = {spec.name: spec for spec in inputs}
    pictures = [(name, said) for name, said in zip(sources, metadata.inputs, strict=False) if said.picture]
    if len(pictures) != 1 or pictures[0][0] not in by_name:
        return Told(labels=labels, output=output)
    name, said = pictures[0]
    try:
        preprocess, doubt = _from_tensor(said, by_name[name])
    except UsageError as error:
        preprocess, doubt = None, f"contradicts itself: {error.subject} {error.reason}"
    return Told(name, preprocess, doubt, labels, output)


def main_ports(data: Buffer) -> tuple[list[str], list[str]]:
    """Name the inputs and outputs of a TFLite file's main graph, in its own order."""
    graph, signature = Table.root(data).tables(2)[0], read_tflite(data).primary
    tensors = graph.tables(0)
    named = signature if signature and not signature.subgraph else None
    sides = ((graph.ints(1), named.inputs if named else {}), (graph.ints(2), named.outputs if named else {}))
    found = []
    for indices, names in sides:
        by_index = {index: name for name, index in names.items()}
        found.append([by_index.get(i, tensors[i].text(3)) for i in indices])
    return found[0], found[1]


def _from_tensor(said: Tensor, spec: TensorSpec) -> tuple[Preprocess | None, str]:
    """Return the preprocessing that TFLite metadata gives, or what is missing for it."""
    color = said.picture.color if said.picture else ""
    if not color and channel_axis(spec, 1) is not None:
        color = "gray"
    if not color:
        return None, "does not say in which order its input takes the colors"
    axis = channel_axis(spec, 1 if color == "gray" else 3)
    if axis is None:
        return None, f"says that its input {spec} is a picture ({color}), and it has no such shape"
    layout = "NHWC" if axis == 3 else "NCHW"
    size = said.picture.size if said.picture else None
    if said.mean and said.std:
        return Preprocess(size, 1.0, said.mean, said.std, layout, color), ""
    if spec.dtype == "uint8" and spec.quantization:
        scale, zero_point = spec.quantization.scale[0], spec.quantization.zero_point[0]
        return Preprocess(size, scale, (zero_point * scale,), (1.0,), layout, color), ""
    return None, "says that its input is a picture, and not how pixels of 0..255 become its values"


def _told_by_onnx(path: Path, data: Buffer, inputs: Sequence[TensorSpec]) -> Told:
    props = read_metadata(data)
    labels = artifact_labels(path, "onnx")
    pictures = [spec for spec in inputs if len(spec.shape) == 4]
    if len(pictures) != 1:
        return Told(labels=labels)
    try:
        preprocess, doubt = _from_props(props, pictures[0])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        preprocess, doubt = None, f"has metadata on its pictures that cannot be read ({error})"
    return Told(pictures[0].name if preprocess else "", preprocess, doubt, labels)


def _from_props(props: Mapping[str, str], spec: TensorSpec) -> tuple[Preprocess | None, str]:
    """Return the preprocessing that ONNX metadata gives, ours or the standard's, or what is missing for it."""
    if "preprocessing" in props:
        return Preprocess.from_dict(json.loads(props["preprocessing"])), ""
    color, limits = FORMATS.get(props.get("Image.BitmapPixelFormat", "")), props.get("Image.NominalPixelRange", "")
    if color is None or limits not in RANGES:
        return None, Told.doubt
    axis = channel_axis(spec, 1 if color == "gray" else 3)
    if axis is None:
        return None, f"says that its input {spec} is a picture ({color}), and it has no such shape"
    low, high = RANGES[limits]
    layout = "NHWC" if axis == 3 else "NCHW"
    return Preprocess(None, (high - low) / 255, (-low,), (1.0,), layout, color), ""
