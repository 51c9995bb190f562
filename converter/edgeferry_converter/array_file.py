"""Arrays on disk that are read one sample at a time: ``.npy`` files, and the members of an ``.npz``.

A mapped file would not do: its pages count as resident memory, and an ``.npz`` cannot be mapped.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from edgeferry_runtime.tensors import Array

SUFFIX = ".npy"


@dataclass(eq=False)
class ArrayFile:
    """The samples along the first axis of one stored array.

    Samples in ascending order are read in one go through the file; another order costs a new beginning where the
    file is compressed.

    Attributes:
        path: A ``.npy`` file, or an ``.npz``.
        member: The array's file in an ``.npz``; None for a ``.npy`` file.
        shape: Of the whole array.
        dtype: Of its elements.
        begin: Where its values begin, in bytes.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int
    _stream: IO[bytes] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Array:
        """Read one sample.

        Raises:
            OSError, ValueError, BadZipFile: If the file ends before it, or is damaged.
        """
        if self._stream is None:
            self._stream = _open(self.path, self.member)
            weakref.finalize(self, self._stream.close)
        shape = self.shape[1:]
        size = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._stream.seek(self.begin + index * size)
        content = self._stream.read(size)
        if len(content) < size:
            raise ValueError(f"it ends within sample {index}")
        return np.frombuffer(content, self.dtype).reshape(shape)


def open_array(path: Path, member: str | None = None) -> ArrayFile | Array:
    """Open a stored array by its header; one in Fortran's order, whose samples are scattered, is read as a whole.

    Raises:
        OSError, ValueError, EOFError, BadZipFile: If it is no array of numbers, or the file is shorter than it says.
    """
    with _open(path, member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, scattered, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        begin = stream.tell()
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if _size(path, member) < begin + size:
            raise ValueError("it is shorter than its header says")
        if scattered or not shape:
            stream.seek(0)
            whole: Array = npy.read_array(stream, allow_pickle=False)
            return whole
    return ArrayFile(path, member, tuple(shape), dtype, begin)


def members(path: Path) -> dict[str, str]:
    """Return the arrays of an ``.npz``: by name, the file inside.

    Raises:
        OSError, BadZipFile: If it is no archive.
    """
    with ZipFile(path) as archive:
        return {name.removesuffix(SUFFIX): name for name in archive.namelist()}


def _open(path: Path, member: str | None) -> IO[bytes]:
    if member is None:
        return path.open("rb")
    with ZipFile(path) as archive:
        return archive.open(member)


def _size(path: Path, member: str | None) -> int:
    if member is None:
        return path.stat().st_size
    with ZipFile(path) as archive:
        return archive.getinfo(member).file_size
