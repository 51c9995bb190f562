"""Metadata of TFLite files: an entry in the flatbuffer, and files in a zip archive behind it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from edgeferry_converter.metadata import Description
from edgeferry_converter.metadata.flatbuffer import Metadata, Tensor, normalization, write
from edgeferry_converter.sources.signature import pack
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tflite_metadata import ENTRY

LABELS = "labels.txt"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the archive, so that the same description gives the same bytes."""


def embed(model: bytes, description: Description) -> bytes:
    """Return a model with a description; an older one is replaced."""
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    entry = _entry(tree)
    tree.buffers[entry.buffer].data = list(write(_metadata(tree, description)))
    files = {LABELS: "\n".join(description.labels).encode() + b"\n"} if description.labels else {}
    return append(pack(tree), files)


def _entry(tree: Any) -> Any:
    """Return the entry of the description, with a buffer of its own."""
    from ai_edge_litert import schema_py_generated as schema

    tree.metadata = tree.metadata or []
    for entry in tree.metadata:
        if _text(entry.name) == ENTRY:
            return entry
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(tree.buffers)
    tree.buffers.append(schema.BufferT())
    tree.metadata.append(entry)
    return entry


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _metadata(tree: Any, description: Description) -> Metadata:
    graph = tree.subgraphs[0]
    names = _signature_names(tree)
    inputs = [_input(graph.tensors[i], names.get(int(i)), description) for i in graph.inputs]
    outputs = [_output(graph.tensors[i], names.get(int(i)), description) for i in graph.outputs]
    return Metadata(description.name, description.text, tuple(inputs), tuple(outputs))


def _signature_names(tree: Any) -> dict[int, str]:
    """Return the signature's name of each tensor of the main graph."""
    found = [s for s in tree.signatureDefs or [] if s.subgraphIndex == 0][:1]
    return {int(t.tensorIndex): _text(t.name) for s in found for t in (*s.inputs, *s.outputs)}


def _input(tensor: Any, name: str | None, description: Description) -> Tensor:
    """An input is a picture where it has four dimensions, of which one counts the channels of the preprocessing."""
    preprocess = description.preprocess
    if preprocess:
        channels = 1 if preprocess.color == "gray" else 3
        axis = 3 if preprocess.layout == "NHWC" else 1
        shape = [int(d) for d in tensor.shape]
        if len(shape) != 4 or shape[axis] != channels:
            preprocess = None
    return Tensor(
        name or _text(tensor.name), preprocess, text=_pixels(preprocess) if preprocess and preprocess.scale else ""
    )


def _pixels(preprocess: Preprocess) -> str:
    """Say how a picture becomes an input."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in normalization(preprocess))
    return f"(pixel - {mean}) / {std}, pixels {preprocess.color} of 0 to 255"


def _output(tensor: Any, name: str | None, description: Description) -> Tensor:
    """An output has the labels where its last dimension counts them."""
    shape = [int(d) for d in tensor.shape] if tensor.shape is not None else []
    fits = bool(shape) and shape[-1] == len(description.labels) > 0
    text = f"{len(description.labels)} classes: {', '.join(description.labels)}" if fits else ""
    return Tensor(
        name or _text(tensor.name), labels=LABELS if fits else "", text=shorten(text, 200, placeholder=" ...")
    )


def append(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """Put files into an uncompressed zip archive behind a flatbuffer."""
    if not files:
        return model
    stream = io.BytesIO(model)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return stream.getvalue()


def carry(model: bytes, source: Path | None) -> bytes:
    """Carry on the files behind a source's flatbuffer where the model still describes them."""
    if source is None or not source.is_file() or ENTRY.encode() not in model or zipfile.is_zipfile(io.BytesIO(model)):
        return model
    try:
        with zipfile.ZipFile(source) as archive:
            return append(model, {name: archive.read(name) for name in archive.namelist()})
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return model
