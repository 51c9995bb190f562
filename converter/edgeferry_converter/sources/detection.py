"""Tells what a file is by its first bytes and its table of contents, never by its suffix."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeferry_runtime.errors import (
    CorruptFileError,
    MissingFileError,
    UnknownFormatError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from edgeferry_converter.sources import SourceSpec

KNOWN = ".keras, .h5, SavedModel folder, TorchScript, .pt2, FILE.py:FACTORY, .onnx or .tflite"
AGAIN = "save or download it again"
BY_FACTORY = "save the state dict, and give FILE.py:FACTORY --weights FILE"


def detect_format(spec: SourceSpec) -> str:
    """Tell a source's format; see `edgeferry_converter.sources.detect`."""
    path = spec.path
    if not path.exists():
        raise MissingFileError(path, "no such file", "check the path")
    if spec.factory:
        return "factory"
    if path.is_dir():
        return _detect_folder(path)
    if not path.is_file():
        raise MissingFileError(path, "is no file", "check the path")
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _detect_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if is_pickle(head):
        raise UnsafeFileError(path, "is a pickle: loading it would execute code", BY_FACTORY)
    return _detect_artifact(path)


def is_pickle(head: bytes) -> bool:
    """Tell whether a file begins as a binary pickle, protocol 2 to 5."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _detect_folder(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return "savedmodel"
    raise UnknownFormatError(path, "is a folder without saved_model.pb", f"give a {KNOWN}")


def _detect_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            start = min((entry.header_offset for entry in archive.infolist()), default=0)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CorruptFileError(path, f"is a truncated or damaged zip archive ({error})", AGAIN) from error
    if start > 0:  # the table of contents is that of an archive stored inside, its own one is cut off
        raise CorruptFileError(path, "is a truncated or damaged zip archive", AGAIN)
    parts = {name.partition("/")[2] for name in names}
    if "model.weights.h5" in names and "config.json" in names:
        return "keras"
    if "archive_format" in parts or "serialized_exported_program.json" in names:
        return "exported"
    if {"data.pkl", "constants.pkl"} <= parts:
        return "torchscript"
    if "data.pkl" in parts:
        raise UnsafeFileError(
            path, "is a PyTorch pickle: weights without their module, or a module as code", BY_FACTORY
        )
    raise UnknownFormatError(path, "is a zip archive of another kind", f"give a {KNOWN}")


def _detect_artifact(path: Path) -> str:
    from edgeferry_runtime.guard import check_artifact

    try:
        return check_artifact(path)
    except UnknownFormatError as error:
        raise UnknownFormatError(path, f"is none of the known formats ({error.reason})", f"give a {KNOWN}") from error
