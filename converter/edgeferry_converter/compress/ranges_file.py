"""Trained ranges as a file: one ``.npz`` without pickles, the same bytes for the same ranges.

Its arrays: ``input/NAME`` with the samples of each input, and ``ranges.json``, a text::

    {"format": "edgeferry-ranges", "version": 1,
     "ranges": {LAYER: [low, high]}, "moments": {LAYER: [low, high, mean, square, count]}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress.grid import Moments, Ranges
from edgeferry_runtime.arrays import ArrayFileError, load_arrays, save_arrays
from edgeferry_runtime.errors import DataError, MissingFileError
from edgeferry_runtime.tensors import Array

MARKER = "edgeferry-ranges"
VERSION = 1
TABLE = "ranges.json"
INPUT = "input/"
FIX = "give the ranges.npz that ferry compress wrote beside the model"


def save(ranges: Ranges, path: Path) -> None:
    """Write ranges, whole or not at all; an older file is replaced.

    Raises:
        DataError: If a value is not finite, or a range ends below its begin.
        OSError: If it cannot be written.
    """
    table = {
        "format": MARKER,
        "version": VERSION,
        "ranges": {layer: list(map(float, limits)) for layer, limits in ranges.ranges.items()},
        "moments": {layer: list(astuple(moments)) for layer, moments in ranges.moments.items()},
    }
    _check(path, table)
    arrays = {f"{INPUT}{name}": np.ascontiguousarray(values) for name, values in sorted(ranges.samples.items())}
    save_arrays(path, {**arrays, TABLE: np.array(json.dumps(table, sort_keys=True))})


def load(path: Path) -> Ranges:
    """Read what `save` wrote.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged, or no such file.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such ranges", "check the path")
    try:
        arrays = load_arrays(path)
    except (OSError, ArrayFileError) as error:
        raise DataError(path, f"cannot be read ({error})", FIX) from error
    table = _table(path, arrays.pop(TABLE, None))
    samples = {name.removeprefix(INPUT): values for name, values in arrays.items() if name.startswith(INPUT)}
    _check_samples(path, samples)
    ranges = {layer: (limits[0], limits[1]) for layer, limits in sorted(table["ranges"].items())}
    return Ranges(samples, ranges, {layer: Moments(*values) for layer, values in sorted(table["moments"].items())})


def _table(path: Path, text: Array | None) -> dict[str, Any]:
    if text is None or text.dtype.kind != "U" or text.shape != ():
        raise DataError(path, "holds no trained ranges", FIX)
    try:
        table = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"cannot be read ({error})", FIX) from error
    if not isinstance(table, dict) or table.get("format") != MARKER:
        raise DataError(path, "holds no trained ranges", FIX)
    if table.get("version") != VERSION:
        reason = f"is of version {table.get('version')}, and this ferry reads {VERSION}"
        raise DataError(path, reason, "use the ferry that wrote it, or a newer one")
    _check(path, table)
    return table


def _check(path: Path, table: Mapping[str, Any]) -> None:
    """Refuse rows that are no finite numbers, or whose low end is above the high one."""
    for key, length in {"ranges": 2, "moments": 5}.items():
        rows = table.get(key)
        if not isinstance(rows, dict):
            raise DataError(path, f"has no table {key!r}", FIX)
        for layer, row in rows.items():
            if not isinstance(row, list) or len(row) != length or not all(map(_finite, row)) or row[0] > row[1]:
                raise DataError(path, f"has {row!r} in {key!r} for {layer!r}", "train again, or leave that layer out")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_samples(path: Path, samples: Mapping[str, Array]) -> None:
    for name, values in samples.items():
        if values.dtype.kind not in "fiub" or not values.shape:
            raise DataError(path, f"has samples of {values.dtype}{list(values.shape)} for {name!r}", FIX)
    if len({len(values) for values in samples.values()}) > 1:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in samples.items())
        raise DataError(path, f"has unequal numbers of samples ({counts})", FIX)
