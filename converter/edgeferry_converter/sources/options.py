"""What a recipe says about its source beyond the path: read, and refused where the source has no use for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import MissingFileError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.recipe import Recipe

HOMES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "weights_key": (("factory",), "FILE.py:FACTORY with --weights"),
    "custom_objects": (("keras", "h5"), "Keras files"),
    "signature": (("savedmodel", "tflite"), "SavedModels and .tflite files"),
    "submodule": (("torchscript",), "TorchScript"),
    "constant": (("torchscript", "onnx"), "TorchScript and .onnx files"),
}
"""By option: the formats that it is for, and how to call them."""


def with_options(spec: SourceSpec, found: str, recipe: Recipe) -> SourceSpec:
    """Add a recipe's options to a source.

    Args:
        spec: The source.
        found: Its format.
        recipe: What to do with it.

    Raises:
        UsageError: If an option is not for this format, or is not written as it should be.
        MissingFileError: If the file of the custom objects does not exist.
    """
    for key, (formats, words) in HOMES.items():
        if getattr(recipe, key) and found not in formats:
            raise UsageError(_flag(key), f"is for {words}, and {spec} is {found}", "leave it out")
    if recipe.weights_key is not None and recipe.weights is None:
        raise UsageError("--weights-key", "names a place in a checkpoint, and none is given", "add --weights FILE")
    if recipe.to == "onnx" and len(recipe.signature) > 1:
        reason = f"an ONNX file has one graph, and {len(recipe.signature)} signatures are chosen"
        raise UsageError("--signature", reason, "choose one, or use --to tflite")
    objects = parse_custom_objects(recipe.custom_objects) if recipe.custom_objects else None
    spec = replace(spec, signature=recipe.signature, one_signature=recipe.to == "onnx")
    spec = replace(spec, submodule=recipe.submodule, constants=recipe.constant)
    return replace(spec, weights_key=recipe.weights_key, custom_objects=objects)


def parse_custom_objects(text: Path) -> tuple[Path, tuple[str, ...]]:
    """Read ``FILE.py:NAME,NAME``.

    Raises:
        UsageError: If it is written otherwise.
        MissingFileError: If there is no such file.
    """
    file, _, listed = str(text).rpartition(":")
    names = tuple(name.strip() for name in listed.split(","))
    if not file.endswith(".py") or not all(name.isidentifier() for name in names):
        fix = "write the Python file and the names in it, such as layers.py:Scale,Swish"
        raise UsageError("--custom-objects", f"{str(text)!r} is not FILE.py:NAME,NAME", fix)
    if not Path(file).is_file():
        raise MissingFileError(file, "no such file with custom objects", "check --custom-objects")
    return Path(file), names


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")
