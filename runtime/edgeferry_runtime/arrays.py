"""Files of arrays: written whole or not at all, and read without trusting them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeferry_runtime.tensors import Array
from edgeferry_runtime.whole import whole_file

UNPACKED = 1 << 30
"""Bytes that the arrays of an archive may take; more only if the archive itself is as large. Else it is a bomb."""

DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile)
"""What zipfile raises where an archive is damaged."""


class ArrayFileError(ValueError):
    """A file of arrays that is damaged, or says what cannot be."""


def load_array(path: Path) -> Array:
    """Read an ``.npy`` of numbers or texts, without unpickling.

    Raises:
        ArrayFileError: If it is none, or shorter than it says.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        return _guarded(stream, path.stat().st_size)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read an ``.npz`` of numbers or texts, without unpickling.

    Raises:
        ArrayFileError: If it is none, is encrypted, names an array twice, or unpacks to more than `UNPACKED`.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        return _read_archive(stream, max(UNPACKED, path.stat().st_size))


def _read_archive(stream: IO[bytes], most: int) -> dict[str, Array]:
    import lzma
    import zlib

    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in found:
                    raise ArrayFileError(f"holds {name!r} twice")
                with archive.open(entry) as content:
                    found[name] = _guarded(content, min(most, entry.file_size))
                most -= found[name].nbytes
    except (*DAMAGE, zlib.error, lzma.LZMAError) as error:
        raise ArrayFileError(str(error) or "ends too early") from error
    return found


def _guarded(stream: IO[bytes], room: int) -> Array:
    """Read an array of at most so many bytes, and turn whatever its header brings about into one error."""
    import tokenize

    try:
        return _read_array(stream, room)
    except (
        ValueError,
        EOFError,
        OverflowError,
        MemoryError,
        SyntaxError,
        RecursionError,
        tokenize.TokenError,
    ) as error:
        raise ArrayFileError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _read_array(stream: IO[bytes], room: int) -> Array:
    shape, fortran, dtype = _read_header(stream)
    if dtype.hasobject or dtype.kind == "V":
        raise ArrayFileError(f"holds {dtype}, and only numbers and texts are read")
    count = prod(shape)
    if min(shape, default=0) < 0 or max((*shape, count)) * max(dtype.itemsize, 1) > room:
        raise ArrayFileError(f"says that it holds {dtype}{list(shape)}, for which it has no room")
    values: Array = np.empty(count, dtype)
    view: Any = values.view(np.uint8).data if values.nbytes else b""
    filled = 0
    while filled < values.nbytes:
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise ArrayFileError(f"ends after {filled} of {values.nbytes} bytes")
        filled += got
    return values.reshape(shape[::-1]).transpose() if fortran else values.reshape(shape)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ArrayFileError(f"has version {version}, which only named fields need")


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz``, whole or not at all. Unlike with `numpy.savez`, a name may be anything.

    Args:
        path: The file; an older one is replaced.
        arrays: By name.

    Raises:
        ValueError: If an array holds Python objects.
    """
    with whole_file(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)
