"""The metadata of TFLite files in words, whoever wrote it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgeferry_runtime.flatbuffer import FlatbufferError
from edgeferry_runtime.tflite_metadata import ENTRY, Metadata, read

__all__ = ["ENTRY", "appended", "describe"]


def describe(content: bytes) -> str:
    """Say what the entry ``TFLITE_METADATA`` holds."""
    try:
        return "; ".join(_words(read(content)))
    except FlatbufferError as error:
        return f"damaged ({error})"


def _words(found: Metadata) -> Iterator[str]:
    if found.name or found.text:
        yield f"{found.name} ({found.text})" if found.text else found.name
    for tensor in (*found.inputs, *found.outputs):
        if tensor.labels:
            yield f"{tensor.name} has labels in {tensor.labels}"
        if tensor.mean or tensor.std:
            mean, std = (", ".join(f"{v:g}" for v in values) for values in (tensor.mean, tensor.std))
            yield f"{tensor.name} is (pixel - {mean}) / {std}"


def appended(path: Path) -> str:
    """Name the files in the archive behind the flatbuffer; empty where there is none."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            return ", ".join(f"{entry.filename} ({entry.file_size} B)" for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return f"damaged ({error})"
