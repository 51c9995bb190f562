"""Names of classes that travel inside an artifact."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.onnx_wire import read_metadata

LARGEST = 1 << 22
"""Bytes that a file of labels may take unpacked; more is a bomb."""


def artifact_labels(path: Path, format_name: str) -> tuple[str, ...]:
    """Read the labels of a verified artifact.

    Args:
        path: The artifact.
        format_name: ``tflite``, which keeps them in a zip archive behind the flatbuffer, or ``onnx``, which keeps
            them in its metadata as ``labels``.

    Returns:
        One name per class; empty where there are none, or where it is not clear which.
    """
    return _from_archive(path) if format_name == "tflite" else _from_metadata(path)


def _from_archive(path: Path) -> tuple[str, ...]:
    if not zipfile.is_zipfile(path):
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [entry for entry in archive.infolist() if "label" in entry.filename.lower()]
            if len(texts) != 1 or texts[0].file_size > LARGEST:
                return ()
            return tuple(archive.read(texts[0]).decode().splitlines())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return ()


def _from_metadata(path: Path) -> tuple[str, ...]:
    with map_file(path) as data:
        text = read_metadata(data).get("labels", "")
    try:
        found = json.loads(text) if text[:1] == "[" else []
    except ValueError:
        return ()
    return tuple(found) if all(isinstance(label, str) for label in found) else ()
