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

from edgeferry_converter.metrics import METRICS
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize.calibration.methods import AUTO, METHODS
from edgeferry_converter.quantize.rounding import NEAREST, ROUNDINGS
from edgeferry_converter.quantize.support import ACTIVATIONS, BLOCK_SIZES, IO_DTYPES
from edgeferry_runtime import toml
from edgeferry_runtime.errors import MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.numerics import TOLERANCES, Tolerance
from edgeferry_runtime.preprocess import Preprocess

FORMATS = ("tflite", "onnx")
PRECISIONS = tuple(TOLERANCES)
CHOICES: Mapping[str, tuple[object, ...]] = {
    "to": FORMATS,
    "quantize": PRECISIONS,
    "block_size": BLOCK_SIZES,
    "io_dtype": IO_DTYPES,
    "activations": ACTIVATIONS,
    "calibration": (*METHODS, AUTO),
    "rounding": ROUNDINGS,
    "metric": METRICS,
}
PATHS = ("aeq_recipe", "calibrate", "ranges", "weights", "custom_objects", "probe", "labels", "evaluate")
LIMITS = {"max_abs": (0, math.inf), "min_cosine": (-1, 1), "min_snr_db": (-math.inf, math.inf), "min_top1": (0, 1)}
"""The lowest and highest value that each limit of a tolerance can have."""
TABLES = ("preprocess", "tolerance", "shape", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a source becomes a bundle.

    Attributes:
        to: The artifact's format: ``tflite`` or ``onnx``.
        quantize: ``none`` (float32), ``fp16`` (float16 weights), ``weight-only`` (int8 weights, float computation),
            ``dynamic`` (int8 weights, integer computation), ``weight-only-int4`` and ``dynamic-int4`` (the same with
            int4 matrices), ``int8`` (int8 weights and activations) or ``int16x8`` (16-bit activations); the last two
            need `calibrate` or `ranges`.
        block_size: Of int4 matrices: 32 or 64 weights share a scale; 0 is one scale per output channel.
        override: Layers or operators of another precision; where several match, the last one holds.
        aeq_recipe: A JSON recipe of ai-edge-quantizer that is used as it is. `quantize` then only names the tolerance.
        calibrate: Samples that are typical of use: ``.npz``, ``.npy``, a folder of ``.npy`` or of images.
        calibration: How ranges of activations are made of `calibrate`: ``min-max`` (true extremes),
            ``moving-average``, ``percentile``, ``mse``, ``entropy``, or ``auto``, which tries them all and keeps the
            one with the best outputs.
        ranges: The ``ranges.npz`` of quantization-aware training: activations that are known again by their values
            take the range that was trained; others are calibrated, on the samples in it where there is no `calibrate`.
        rounding: Of integer weights, on TFLite: ``nearest``, or ``gptq``, which takes what each layer is fed of
            `calibrate` and lets weights make up for the errors of others; it corrects biases too.
        io_dtype: ``float32`` keeps float inputs and outputs; ``int8`` and ``uint8`` make them integers (with
            ``int8`` only).
        activations: What ``int8`` stores activations in on ONNX: ``int8`` (S8S8) or ``uint8`` (U8S8).
        weights: The weights that a PyTorch factory's model loads.
        weights_key: The key below which they lie in a checkpoint, such as ``ema``; dots lead deeper.
        custom_objects: ``FILE.py:NAME,NAME``: the Python classes and functions that a Keras file names. The file is
            executed because it is given here, and never else.
        signature: The signatures of a SavedModel or a TFLite file to convert, one or several; without it all of them
            (for ONNX, which has room for one, ``serving_default``). That one, else the first, is the primary one.
        submodule: The part of a TorchScript module that is the model, such as ``encoder``; dots lead deeper.
        probe: Samples to verify with; without them those of `calibrate`, else seeded random ones.
        labels: A text file with one class name a line.
        evaluate: Labelled samples, an ``.npz`` with the truth called ``label``, on which the accuracy of source and
            artifact is measured; see ``ferry verify --data``.
        metric: What accuracy is measured by: ``top1``, ``mse`` or ``auc``.
        metric_output: The output that it is taken of; without it the only one that can be meant.
        max_drop: Most accuracy that the artifact may lose: points of percent, of ``mse`` percent. None allows any.
        name: The bundle's name; without it the output folder's.
        samples: How many samples verification takes at most. 32 costs a second or so on small models, and
            resolves top-1 agreement to 3 points.
        seed: Of the random samples.
        preprocess: How images become inputs.
        tolerance: Limits that replace the default ones of the precision; None keeps the default.
        shape: Dimensions by input name, where the source does not fix them; -1 in front is a dynamic batch.
        constant: By name, the values of inputs that are no data, such as a sample rate; the artifact has them no more.

    Raises:
        UnknownNameError: For a value that is none of the valid ones.
        UsageError: For values that do not fit together.
    """

    to: str = "tflite"
    quantize: str = "none"
    block_size: int = 0
    override: tuple[Override, ...] = ()
    aeq_recipe: Path | None = None
    calibrate: Path | None = None
    calibration: str = "min-max"
    ranges: Path | None = None
    rounding: str = NEAREST
    io_dtype: str = "float32"
    activations: str = "int8"
    weights: Path | None = None
    weights_key: str | None = None
    custom_objects: Path | None = None
    signature: tuple[str, ...] = ()
    submodule: str | None = None
    probe: Path | None = None
    labels: Path | None = None
    evaluate: Path | None = None
    metric: str = METRICS[0]
    metric_output: str | None = None
    max_drop: float | None = None
    name: str | None = None
    samples: int = 32
    seed: int = 0
    preprocess: Preprocess | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constant: Mapping[str, int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, valid in CHOICES.items():
            if getattr(self, key) not in valid or isinstance(getattr(self, key), bool):
                raise UnknownNameError(_flag(key), str(getattr(self, key)), map(str, valid))
        for key in PATHS:
            if getattr(self, key) is not None:
                object.__setattr__(self, key, _path(key, getattr(self, key)))
        object.__setattr__(self, "override", tuple(self.override))
        _check_number("samples", self.samples, 1, 100_000)
        _check_number("seed", self.seed, 0, 2**32 - 1)
        _check_name(self.name)
        _check_text("weights_key", self.weights_key)
        _check_text("submodule", self.submodule)
        _check_text("metric_output", self.metric_output)
        object.__setattr__(self, "signature", _names("signature", self.signature))
        object.__setattr__(self, "shape", {k: _dims(k, v) for k, v in self.shape.items()})
        object.__setattr__(self, "constant", {k: _number(k, v) for k, v in self.constant.items()})
        _check_limits(vars(self.tolerance), LIMITS)
        _check_limits({"max_drop": self.max_drop}, {"max_drop": (0, math.inf)})

    @property
    def limits(self) -> Tolerance:
        """The tolerance in force: the default of the coarsest precision, with what the recipe says itself."""
        asked = {self.quantize, *(override.precision for override in self.override)}
        coarsest = max(asked, key=list(TOLERANCES).index)
        own = {f.name: getattr(self.tolerance, f.name) for f in fields(Tolerance)}
        return replace(TOLERANCES[coarsest], **{k: v for k, v in own.items() if v is not None})

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
        if isinstance(values.get("quantize"), Mapping):
            values |= _quantize(values.pop("quantize"))
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
    def from_file(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file: ours in TOML, or one of ai-edge-quantizer in JSON.

        Raises:
            MissingFileError: If there is no such file.
            UsageError: If it is neither, or a value does not fit.
        """
        from edgeferry_converter.quantize import tflite_recipe

        file = Path(path)
        if file.suffix.lower() != ".json":
            return cls.from_toml(file)
        return cls(quantize=tflite_recipe.precision(tflite_recipe.read(file)), aeq_recipe=file)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file; relative paths in it are relative to its folder.

        Raises:
            MissingFileError: If there is no such file.
            UsageError: If it is no TOML, or a value does not fit.
            UnknownNameError: For a key that a recipe does not have.
        """
        file = Path(path)
        return cls.from_dict(read_toml(file, "docs/reference.md"), file.parent)

    def to_toml(self, folder: Path | None = None) -> str:
        """Return the recipe as TOML, leaving out what has its default value.

        Args:
            folder: Where the file will lie; paths are written relative to it. None writes them as they are.
        """
        default = Recipe()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {key: value for key, value in changed.items() if value != getattr(default, key)}
        if "override" in changed:
            changed["quantize"] = {"precision": self.quantize, "override": changed.pop("override")}
        return toml.dump({key: _plain(value, folder) for key, value in changed.items()})


def read_toml(file: Path, documented: str) -> dict[str, Any]:
    """Read a file of recipes.

    Args:
        file: Where it lies.
        documented: The page that tells its form, for errors.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If it is no TOML.
    """
    if not file.is_file():
        raise MissingFileError(file, "no such recipe", "check the path")
    try:
        return toml.parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(file, f"is no TOML ({error})", f"see the recipe's form in {documented}") from error


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


def _check_text(key: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(_flag(key), f"{value!r} is no name", "give its name as text")


def _names(key: str, value: object) -> tuple[str, ...]:
    """Read one name, a list of them, or None for none."""
    names = tuple(value) if isinstance(value, (list, tuple)) else () if value is None else (value,)
    for name in names:
        _check_text(key, name)
        if name is None or names.count(name) > 1:
            raise UsageError(_flag(key), f"{value!r} holds no name, or one twice", "give each name once")
    return names


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


def _number(name: str, value: object) -> int | float | bool:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"--constant {name}", f"{value!r} is no number", f"give one, such as {name}=16000")
    return value


def _check_limits(values: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> None:
    for key, (low, high) in limits.items():
        value = values[key]
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value)):
            raise UsageError(_flag(key), f"{value!r} is no number", "give a number")
        if value is not None and not low <= value <= high:
            raise UsageError(_flag(key), f"{value!r} is out of range", f"give a number from {low:g} to {high:g}")


def _quantize(table: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``[quantize]``: a precision, and overrides as ``[[quantize.override]]``."""
    check_keys("quantize", table, ("precision", "override"))
    overrides = table.get("override", [])
    if not isinstance(overrides, list) or not all(isinstance(one, Mapping) for one in overrides):
        raise UsageError("recipe key 'quantize.override'", "is no list of tables", "write it as [[quantize.override]]")
    precision = table.get("precision", "none")
    return {"quantize": precision, "override": tuple(Override.from_dict(one) for one in overrides)}


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
    return [_plain(item, folder) for item in value] if isinstance(value, tuple) else value
