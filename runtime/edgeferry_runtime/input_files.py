"""From the files that a user names to what a model is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_runtime.arrays import ArrayFileError, load_array, load_arrays
from edgeferry_runtime.errors import DataError, MissingFileError, UsageError
from edgeferry_runtime.preprocess import IMAGE_SUFFIXES, Preprocess, read_image
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_runtime.bundle import Bundle


def read_feeds(
    texts: Sequence[str], specs: Sequence[TensorSpec], preprocess: Preprocess | None, *, raw: bool = False
) -> dict[str, Array]:
    """Read what a model is fed.

    Args:
        texts: Each ``FILE`` or ``NAME=FILE``: an ``.npy``; an ``.npz`` whose keys are input names, or which holds one
            array; a picture. An array that lacks only the batch axis is given one.
        specs: The model's inputs.
        preprocess: How pictures become inputs; None where that is not known.
        raw: Whether the model is to be fed stored values. Files of arrays hold such then; pictures are quantized.

    Returns:
        An array by input name, for every input.

    Raises:
        UsageError: If a file's input is not named and the model has several.
        MissingFileError: If there is no such file.
        DataError: If a file cannot be read, names no input, or an input is given twice or never.
    """
    by_name = {spec.name: spec for spec in specs}
    feeds: dict[str, Array] = {}
    for text in texts:
        name, path = _split(text, by_name)
        for key, values in _read(path, name, by_name, preprocess, raw=raw).items():
            if key in feeds:
                raise DataError(path, f"gives the input {key!r} a second time", "give each input once")
            feeds[key] = values
    missing = [name for name in by_name if name not in feeds]
    if missing:
        raise DataError("--input", f"lacks {', '.join(missing)}", f"add --input {missing[0]}=FILE")
    return feeds


def has_pictures(texts: Sequence[str]) -> bool:
    """Tell whether some of what a model is fed are pictures, by the names of the files."""
    return any(text.lower().endswith(IMAGE_SUFFIXES) for text in texts)


@dataclass(frozen=True)
class Target:
    """What is to be fed.

    Attributes:
        path: A bundle's folder, or an artifact.
        bundle: None for a bare artifact.
        signature: Which of its signatures; None for the primary one.
    """

    path: Path
    bundle: Bundle | None = None
    signature: str | None = None


def choose_feeds(
    target: Target, texts: Sequence[str], specs: Sequence[TensorSpec], *, raw: bool = False
) -> dict[str, Array]:
    """Read what a model is fed: the files that were given, else the first sample of its bundle's probe.

    Args:
        target: What is to be run.
        texts: See `read_feeds`.
        specs: The model's inputs.
        raw: See `read_feeds`.

    Raises:
        UsageError: If nothing was given, and there is no bundle.
        EdgeferryError: What `read_feeds` raises.
    """
    if texts:
        return read_feeds(texts, specs, _preprocess(target, texts, specs), raw=raw)
    if target.bundle is None:
        raise UsageError(target.path, "is a bare artifact, which has no probe", "give --input FILE")
    probe = next(target.bundle.probe(target.signature).feeds(), {})
    return stored(probe, specs) if raw else probe


def _preprocess(target: Target, texts: Sequence[str], specs: Sequence[TensorSpec]) -> Preprocess | None:
    """Tell how pictures become inputs: as a bundle's recipe or a bare artifact's own metadata says."""
    if target.bundle or not has_pictures(texts):
        return target.bundle.manifest.preprocess if target.bundle else None
    from edgeferry_runtime.classification import told_preprocess

    return told_preprocess(target.path, specs)


def stored(feeds: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Quantize real values for the inputs that are quantized."""
    by_name = {spec.name: spec for spec in specs}
    return {name: _stored(values, by_name[name]) for name, values in feeds.items()}


def _stored(values: Array, spec: TensorSpec) -> Array:
    return spec.quantization.quantize(values, spec.dtype) if spec.quantization else values


def _split(text: str, specs: Mapping[str, TensorSpec]) -> tuple[str | None, Path]:
    """Split ``NAME=FILE``; a name of the model wins over a file whose name has an equals sign."""
    for name in specs:
        if text.startswith(f"{name}="):
            return name, Path(text[len(name) + 1 :])
    name, equals, file = text.partition("=")
    if equals and not Path(text).exists() and Path(file).exists():
        raise DataError(f"--input {text}", f"{name!r} is none of the inputs", f"valid are {', '.join(specs)}")
    return None, Path(text)


def _read(
    path: Path, name: str | None, specs: Mapping[str, TensorSpec], preprocess: Preprocess | None, *, raw: bool
) -> dict[str, Array]:
    if not path.is_file():
        raise MissingFileError(path, "is no file" if path.exists() else "no such input file", "check the path")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path, name, specs)
    key = name or _only(path, specs)
    if suffix == ".npy":
        return {key: _fitting(_read_npy(path), specs[key])}
    if suffix not in IMAGE_SUFFIXES:
        known = ", ".join((".npy", ".npz", *IMAGE_SUFFIXES))
        raise DataError(path, f"has the suffix {suffix!r}, which is none that can be read", f"give one of {known}")
    if preprocess is None:
        reason = "is a picture, and nothing says how pictures become this model's input"
        raise DataError(path, reason, "convert with a recipe that has [preprocess], or give an .npy")
    from edgeferry_runtime.classification import whole

    pixels = whole(read_image(path, preprocess), specs[key])
    return {key: _stored(pixels, specs[key]) if raw else pixels}


def _read_npy(path: Path) -> Array:
    try:
        return load_array(path)
    except (OSError, ArrayFileError) as error:
        raise DataError(path, f"cannot be read as an array ({error})", "write it with numpy.save") from error


def _read_npz(path: Path, name: str | None, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    try:
        arrays = load_arrays(path)
    except (OSError, ArrayFileError) as error:
        raise DataError(path, f"cannot be read as arrays ({error})", "write it with numpy.savez") from error
    if len(arrays) == 1 and (name or len(specs) == 1):
        arrays = {name or next(iter(specs)): next(iter(arrays.values()))}
    elif name:
        raise DataError(path, f"holds {len(arrays)} arrays for the one input {name!r}", "give one array")
    for key in arrays:
        if key not in specs:
            raise DataError(path, f"{key!r} is none of the inputs", f"valid are {', '.join(specs)}")
    return {key: _fitting(values, specs[key]) for key, values in arrays.items()}


def _only(path: Path, specs: Mapping[str, TensorSpec]) -> str:
    if len(specs) > 1:
        raise UsageError(
            f"--input {path}", f"the model has {len(specs)} inputs", f"say which: {next(iter(specs))}={path}"
        )
    return next(iter(specs))


def _fitting(values: Array, spec: TensorSpec) -> Array:
    """Add the batch axis where that alone is lacking."""
    if not spec.accepts(values.shape) and spec.accepts((1, *values.shape)):
        return values[np.newaxis]
    return values
