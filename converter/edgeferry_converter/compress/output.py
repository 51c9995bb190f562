"""What a compression leaves: a folder that is there whole or not at all.

Its files::

    model.keras                      or model.pt2 with weights.safetensors: the plain model of the best step
    history.json                     what every step did and cost
    recipe.toml                      how it was made
    ranges.npz, convert.toml         after quantization-aware training: what ferry convert needs to keep it
    bundle/                          where the recipe has [convert]
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import MissingFileError, OutputExistsError
from edgeferry_runtime.scratch import LOCK, scratch
from edgeferry_runtime.whole import swap_folder

HISTORY, RECIPE, CONVERT, RANGES, BUNDLE = "history.json", "recipe.toml", "convert.toml", "ranges.npz", "bundle"
MARKER = "edgeferry-compression"
LARGEST = 1 << 26
"""Bytes that a history is read up to."""


def check(path: Path) -> None:
    """Refuse an output path that holds something that is not ours.

    Raises:
        OutputExistsError: If it exists, and is neither an older output nor an empty folder.
        MissingFileError: If its parent folder does not exist or cannot be written.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise MissingFileError(path.parent, "no such folder", "create it, or give another -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise MissingFileError(path.parent, "cannot be written", "give another -o, or change its permissions")
    if path.is_dir() and not path.is_symlink() and (is_ours(path) or not any(path.iterdir())):
        return
    if path.exists() or path.is_symlink():
        raise OutputExistsError(path, "exists and is no output of ferry compress", "give another -o, or remove it")


def check_apart(path: Path, files: Iterable[Path]) -> None:
    """Refuse an older output that holds what the new one is made of: it would be replaced.

    Raises:
        OutputExistsError: Naming the file.
    """
    folder = path.resolve()
    for file in files:
        if file.resolve().is_relative_to(folder):
            raise OutputExistsError(path, f"holds {file}, and would be replaced", "give another -o, or move that file")


def is_ours(path: Path) -> bool:
    """Tell whether a folder is an output of ours, by its history."""
    file = path / HISTORY
    try:
        data = json.loads(file.read_bytes()) if file.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == MARKER


def write(path: Path, fill: Callable[[Path], None]) -> None:
    """Write an output; an older one is replaced once the new one is whole.

    Args:
        path: The folder.
        fill: Writes all files into the temporary folder that it is given.

    Raises:
        OutputExistsError: If something that is not ours lies at `path`.
    """
    check(path)
    path = path.absolute()
    with scratch(f".{path.name}.", ".part", path.parent) as parts:
        parts.chmod(0o755)
        fill(parts)
        (parts / LOCK).unlink()
        swap_folder(parts, path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a history."""
    text = json.dumps({"format": MARKER, **plain(data)}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return data as JSON has them: NumPy's numbers as Python's, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def copy_bundle(bundle: Path, folder: Path) -> None:
    """Copy a bundle, whose files are made to be copied."""
    shutil.copytree(bundle, folder / BUNDLE)
