"""A bundle for a bug report: the model with noise for weights, the recipe, the versions, and what went wrong.

Its files: ``report.json``, ``recipe.toml``, and where they can be made ``source.*`` (the model file) and ``float.*``
(what it lowers to). Shapes, dtypes, names and the mean, deviation and limits of each tensor are the model's; its
values, its calibration and probe data, its labels and its Python files are not inside.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeferry_converter.recipe import Recipe
from edgeferry_converter.repro.noise import with_noise
from edgeferry_converter.sources import SourceSpec, detect, open_source
from edgeferry_converter.sources.options import with_options
from edgeferry_runtime import __version__
from edgeferry_runtime.errors import EdgeferryError, MissingFileError
from edgeferry_runtime.scratch import scratch

PACKAGES = (
    *("numpy", "ai-edge-litert", "ai-edge-quantizer", "onnx", "onnxruntime", "tensorflow", "keras", "tf-keras"),
    *("tf2onnx", "torch", "litert-torch", "onnxscript"),
)

FOLDERS = re.compile(r"(?<![\w.…])/(?:[^\s/:'\"]+/)+")
"""An absolute path up to its last part."""


@contextlib.contextmanager
def reporting(target: Path | None, source: str, recipe: Recipe) -> Iterator[None]:
    """Write a bundle for a bug report when the block has ended, by an expected error or well.

    Args:
        target: The zip; None writes nothing.
        source: The model, as it was given.
        recipe: What was asked for.

    Raises:
        MissingFileError: If the zip's folder does not exist.
        EdgeferryError: What the block raised.
    """
    if target is not None and not target.absolute().parent.is_dir():
        raise MissingFileError(target.parent, "no such folder", "create it, or give another --repro")
    try:
        yield
    except EdgeferryError as error:
        if target is not None:
            write_report(target, source, recipe, error)
        raise
    if target is not None:
        write_report(target, source, recipe, None)


def write_report(target: Path, source: str, recipe: Recipe, error: EdgeferryError | None) -> None:
    """Write the zip in one go; see the module for what is inside.

    Raises:
        OSError: If it cannot be written.
    """
    spec = SourceSpec.parse(source, recipe.weights, recipe.shape)
    spec = with_options(spec, detect(spec), recipe)
    with scratch() as place:
        folder = place / "repro"
        folder.mkdir()
        notes = [*_noisy_source(spec, folder), *_noisy_float(spec, recipe.to, folder)]
        folders = [str(p) for path in (spec.path, spec.weights) if path for p in (path.absolute().parent, path.parent)]
        report = {
            "schema": 1,
            "error": _without_paths(str(error), folders) if error else None,
            "error_type": type(error).__name__ if error else None,
            "not_included": [_without_paths(note, [*folders, str(folder)]) for note in notes],
            "tools": {"edgeferry": __version__, "python": platform.python_version(), **_versions()},
            "platform": platform.platform(),
        }
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (folder / "recipe.toml").write_text(_bare(recipe).to_toml(None), encoding="utf-8")
        part = target.with_name(f".{target.name}.part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(p for p in folder.iterdir() if p.is_file()):
                archive.write(file, file.name)
        part.replace(target)


def _noisy_source(spec: SourceSpec, folder: Path) -> list[str]:
    """Write the model file with noise for weights; return why it was left out, if it was."""
    file = spec.weights or spec.path
    try:
        with_noise(file, "weights" if spec.weights else detect(spec), folder / f"source{file.suffix}")
    except EdgeferryError as error:
        return [f"source: {error.reason}"]
    return []


def _noisy_float(spec: SourceSpec, to: str, folder: Path) -> list[str]:
    lowered = folder / "lowered"
    lowered.mkdir()
    try:
        open_source(spec).lower(to, lowered / f"float.{to}")
        with_noise(lowered / f"float.{to}", to, folder / f"float.{to}")
    except EdgeferryError as error:
        return [f"float artifact: {error.reason}"]
    return []


def _bare(recipe: Recipe) -> Recipe:
    """Return a recipe whose paths are file names: folders tell about their owner."""
    values: dict[str, Any] = vars(recipe)
    bare: dict[str, Any] = {key: Path(value.name) for key, value in values.items() if isinstance(value, Path)}
    return replace(recipe, **bare)


def _without_paths(text: str, folders: Sequence[str]) -> str:
    """Take folders out of a text: those that are known, and what looks like one."""
    for folder in sorted({*folders, str(Path.home())} - {"/", "."}, key=len, reverse=True):
        text = text.replace(folder, "…")
    return FOLDERS.sub("…/", text)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
