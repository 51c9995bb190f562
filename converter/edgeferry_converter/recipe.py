"""The recipe: what to do with a source, as data.

One frozen dataclass, one TOML file and one set of command-line flags, with the same names in all three.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from edgeferry_runtime import toml
from edgeferry_runtime.errors import MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.numerics import TOLERANCES, Tolerance
from edgeferry_runtime.preprocess import Preprocess

FORMATS = ("tflite", "onnx")
PRECISIONS = tuple(TOLERANCES)
IO_DTYPES = ("float32", "int8")
PATHS = ("calibrate", "weights", "probe", "labels")
LIMITS = {"max_abs": (0, math.inf), "min_cosine": (-1, 1), "min_snr_db": (-math.inf, math.inf), "min_top1": (0, 1)}
"""The lowest and highest value that each limit of a tolerance can have."""
TABLES = ("preprocess", "tolerance", "shape")


@dataclass(frozen=True)
class Recipe:
    """How a source becomes a bundle.

    Attributes:
        to: The artifact's format: ``tflite`` or ``onnx``.
        quantize: ``none`` (float32), ``fp16`` (float16 weights), ``dynamic`` (int8 weights) or ``int8``
            (int8 weights and activations; needs `calibrate`).
        calibrate: Samples that are typical of use: ``.npz``, ``.npy``, a folder of ``.npy`` or of images.
        io_dtype: ``float32`` keeps float inputs and outputs; ``int8`` makes them integers (with ``int8`` only).
        weights: The weights that a PyTorch factory's model loads.
        probe: Samples to verify with; without them those of `calibrate`, else seeded random ones.
        labels: A text file with one class name a line.
        name: The bundle's name; without it the output folder's.
        samples: How many samples verification takes at most. 32 costs a second or so on small models, and
            resolves top-1 agreement to 3 points.
        seed: Of the random samples.
        preprocess: How images become inputs.
        tolerance: Limits that replace the default ones of the precision; None keeps the default.
        shape: Dimensions by input name, where the source does not fix them; -1 in front is a dynamic batch.

    Raises:
        UnknownNameError: For a value that is none of the valid ones.
        UsageError: For values that do not fit together.
    """

    to: str = "tflite"
    quantize: str = "none"
    calibrate: Path | None = None
    io_dtype: str = "float32"
    weights: Path | None = None
    probe: Path | None = None
    labels: Path | None = None
    name: str | None = None
    samples: int = 32
    seed: int = 0
    preprocess: Preprocess | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, valid in (("to", FORMATS), ("quantize", PRECISIONS), ("io_dtype", IO_DTYPES)):
            if getattr(self, key) not in valid:
                raise UnknownNameError(_flag(key), str(getattr(self, key)), valid)
        for key in PATHS:
            if getattr(self, key) is not None:
                object.__setattr__(self, key, _path(key, getattr(self, key)))
        if self.io_dtype == "int8" and self.quantize != "int8":
            raise UsageError(
                "--io-dtype int8", f"needs int8 activations, and --quantize is {self.quantize}", "add --quantize int8"
            )
        _check_number("samples", self.samples, 1, 100_000)
        _check_number("seed", self.seed, 0, 2**32 - 1)
        _check_name(self.name)
        object.__setattr__(self, "shape", {k: _dims(k, v) for k, v in self.shape.items()})
        _check_tolerance(self.tolerance)

    @property
    def limits(self) -> Tolerance:
        """The tolerance in force: the default of the precision, with what the recipe says itself."""
        own = {f.name: getattr(self.tolerance, f.name) for f in fields(Tolerance)}
        return replace(TOLERANCES[self.quantize], **{k: v for k, v in own.items() if v is not None})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path = Path()) -> Recipe:
        """Read the form that TOML has.

        Args:
            data: Keys as in `Recipe`, with ``preprocess``, ``tolerance`` and ``shape`` as tables.
            folder: What relative paths are relative to.

        Raises:
            UnknownNameError: For a key that a recipe does not have.
            UsageError: For a value of the wrong type.
        """
        check_keys("recipe", data, [f.name for f in fields(cls)])
        values = dict(data)
        for key in TABLES:
            if key in values and not isinstance(values[key], Mapping):
                raise UsageError(f"recipe key {key!r}", "is no table", f"write it as [{key}] with its keys below")
        for key in PATHS:
            if key in values:
                values[key] = folder / _path(key, values[key])
        if "preprocess" in values:
            values["preprocess"] = _preprocess(values["preprocess"])
        if "tolerance" in values:
            check_keys("tolerance", values["tolerance"], [f.name for f in fields(Tolerance)])
            values["tolerance"] = Tolerance(**values["tolerance"])
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file; relative paths in it are relative to its folder.

        Raises:
            MissingFileError: If there is no such file.
            UsageError: If it is no TOML, or a value does not fit.
            UnknownNameError: For a key that a recipe does not have.
        """
        file = Path(path)
        if not file.is_file():
            raise MissingFileError(file, "no such recipe", "check the path")
        try:
            data = toml.parse(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(file, f"is no TOML ({error})", "see the recipe's form in the documentation") from error
        return cls.from_dict(data, file.parent)

    def to_toml(self, folder: Path | None = None) -> str:
        """Return the recipe as TOML, leaving out what has its default value.

        Args:
            folder: Where the file will lie; paths are written relative to it. None writes them as they are.
        """
        default = Recipe()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {key: value for key, value in changed.items() if value != getattr(default, key)}
        return toml.dump({key: _plain(value, folder) for key, value in changed.items()})


def check_keys(where: str, data: Iterable[str], valid: Iterable[str]) -> None:
    """Refuse a key that is none of the valid ones.

    Raises:
        UnknownNameError: With the nearest match.
    """
    names = list(valid)
    for key in data:
        if key not in names:
            raise UnknownNameError(f"{where} key", key, names)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _path(key: str, value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UsageError(_flag(key), f"{value!r} is no path", "give a file or folder")
    return Path(value)


def _check_number(key: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(_flag(key), f"{value!r} is out of range", f"give a whole number from {low} to {high}")


def _check_name(name: str | None) -> None:
    """A name becomes a folder on the device: one plain path component."""
    if name is not None and not valid_name(name):
        raise UsageError("--name", f"{name!r} is no plain name", "use letters, digits, '.', '_' and '-'")


def valid_name(name: object) -> bool:
    """Tell whether a text can name a bundle: up to 100 ASCII letters, digits, dots, underscores and dashes."""
    if not isinstance(name, str) or not name.isascii() or not 0 < len(name) <= 100 or name[0] in ".-":
        return False
    return all(c.isalnum() or c in "._-" for c in name)


def plain_name(text: str) -> str:
    """Make any text a name: what a name cannot hold becomes a dash."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).strip(".-")[:100]
    return name or "model"


def _dims(name: str, value: object) -> tuple[int, ...]:
    dims = tuple(value) if isinstance(value, (list, tuple)) else ()
    whole = all(isinstance(d, int) and not isinstance(d, bool) for d in dims)
    if (
        not isinstance(value, (list, tuple))
        or not whole
        or any(d < 1 and (i, d) != (0, -1) for i, d in enumerate(dims))
    ):
        fix = f"give positive sizes, such as {name}=1,3,32,32; only the batch in front may be -1"
        raise UsageError(f"--shape {name}", f"{value!r} is no shape", fix)
    return dims


def _check_tolerance(tolerance: Tolerance) -> None:
    for key, (low, high) in LIMITS.items():
        value = getattr(tolerance, key)
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value)):
            raise UsageError(_flag(key), f"{value!r} is no number", "give a number")
        if value is not None and not low <= value <= high:
            raise UsageError(_flag(key), f"{value!r} is out of range", f"give a number from {low:g} to {high:g}")


def _preprocess(table: Mapping[str, Any]) -> Preprocess:
    for key in ("resize", "scale", "mean", "std"):
        values = table.get(key, ())
        for value in values if isinstance(values, list) else [values] if key in table else []:
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise UsageError(f"preprocess.{key}", f"{value!r} is no number", "give a number or a list of numbers")
    try:
        return Preprocess.from_dict(dict(table))
    except TypeError as error:
        raise UsageError("recipe table [preprocess]", f"has a wrong value ({error})", "see its keys") from error


def _plain(value: Any, folder: Path | None) -> Any:
    """Return a value in the form that TOML has; a path is made relative to `folder`."""
    if isinstance(value, Path):
        return (Path(os.path.relpath(value, folder)) if folder else value).as_posix()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(item, folder) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value
