"""Arrays by name in one file."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeferry_runtime.tensors import Array


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz``, whole or not at all. Unlike with `numpy.savez`, a name may be anything.

    Args:
        path: The file; an older one is replaced.
        arrays: By name.

    Raises:
        ValueError: If an array holds Python objects.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.absolute().parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for key, values in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
