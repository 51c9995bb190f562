"""Names of classes that travel inside an artifact."""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from pathlib import Path

from edgeferry_runtime.errors import BundleError
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.onnx_wire import read_metadata

LARGEST = 1 << 22
"""Bytes that a file of labels may take unpacked; more is a bomb."""


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a file of one name a line.

    Raises:
        BundleError: If it is no text, or larger than any labels are.
    """
    again = "convert the source again"
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BundleError(path, f"has more than {LARGEST >> 20} MiB of labels", again)
        return tuple(content.decode().splitlines())
    except UnicodeDecodeError as error:
        raise BundleError(path, f"is no text in UTF-8 ({error.reason})", again) from error


def artifact_labels(path: Path, format_name: str) -> tuple[str, ...]:
    """Read the labels of a verified artifact.

    Args:
        path: The artifact.
        format_name: ``tflite``, which keeps them in a zip archive behind the flatbuffer, or ``onnx``, which keeps
            them in its metadata as ``labels``.

    Returns:
        One name per class; empty where there are none, or where it is not clear which.
    """
    return archive_labels(path) if format_name == "tflite" else _from_metadata(path)


def archive_labels(path: Path, name: str = "") -> tuple[str, ...]:
    """Read a file of labels from the zip archive behind a ``.tflite``.

    Args:
        path: The artifact.
        name: The file's name in the archive; without it, the only one whose name speaks of labels.
    """
    if not zipfile.is_zipfile(path):
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            known = archive.infolist()
            texts = [e for e in known if (e.filename == name if name else "label" in e.filename.lower())]
            if len(texts) != 1 or texts[0].file_size > LARGEST:
                return ()
            with archive.open(texts[0]) as content:
                return tuple(content.read(LARGEST).decode().splitlines())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, zlib.error, lzma.LZMAError):
        return ()


def _from_metadata(path: Path) -> tuple[str, ...]:
    with map_file(path) as data:
        props = read_metadata(data)
    text = props.get("labels", "")
    try:
        found = json.loads(text) if text[:1] == "[" else _numbered(props.get("names", ""))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ()
    return tuple(str(label) for label in found) if all(isinstance(label, str) for label in found) else ()


def _numbered(text: str) -> list[object]:
    """Read ``{0: 'cat', 1: 'dog'}``, a Python literal, as Ultralytics writes it."""
    import ast

    found = ast.literal_eval(text) if text[:1] == "{" and len(text) < LARGEST else {}
    known = isinstance(found, dict) and set(found) == set(range(len(found)))
    return [found[i] for i in range(len(found))] if known else []
