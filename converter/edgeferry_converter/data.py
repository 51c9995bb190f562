"""Probe and calibration data: samples that are read one at a time, and checked against a model's inputs.

Forms: ``.npz`` with an array for each input name; ``.npy`` for the only input; a folder of ``.npy`` files, one
sample each (for several inputs: a folder for each input name); a folder of images, which the recipe's
[preprocess] turns into inputs. Along the first axis of an array lie the samples. A sample is fed as it is when
its shape fits the input as a whole, else as a batch of one. For several signatures see `signature_data`.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np

from edgeferry_converter.array_file import members, open_array
from edgeferry_runtime.errors import DataError, MissingFileError
from edgeferry_runtime.preprocess import IMAGE_SUFFIXES, Preprocess, read_image
from edgeferry_runtime.tensors import Array, TensorSpec

ONLY = ""
"""The name of a column that names no input, and so belongs to the only one."""

DAMAGED = (OSError, ValueError, EOFError, BadZipFile, NotImplementedError, zlib.error)
"""What reading a damaged file raises."""

LARGEST = 1e9
"""Calibration values beyond it are a mistake: one int8 step would be four million units wide."""


class Column(Protocol):
    """Samples of one input, without regard to the batch axis."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int, /) -> Array:
        """Read one sample."""
        ...


@dataclass(frozen=True)
class ArrayFiles:
    """A folder of ``.npy`` files, read when asked for."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Array:
        return _load_npy(self.files[index])


@dataclass(frozen=True)
class Images:
    """A folder of images, read when asked for."""

    files: tuple[Path, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Array:
        return read_image(self.files[index], self.preprocess)


@dataclass(frozen=True)
class Data:
    """Samples that are not yet bound to a model.

    Attributes:
        path: Where they lie.
        columns: By input name; the name is `ONLY` where the file tells none.
    """

    path: Path
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one sample by name, with the batch of one that a model takes."""
        shapes = {name: np.shape(column[0]) for name, column in self.columns.items()}
        whole = {name: isinstance(column, Images) for name, column in self.columns.items()}
        return {name: shape if whole[name] else (1, *shape) for name, shape in shapes.items()}

    def bind(self, inputs: Sequence[TensorSpec]) -> Samples:
        """Give each input its column.

        Raises:
            DataError: If a name belongs to no input, or an input has no data.
        """
        names = [spec.name for spec in inputs]
        if ONLY in self.columns:
            if len(inputs) != 1:
                fix = f"give an .npz or a folder of folders with the names {', '.join(names)}"
                raise DataError(self.path, f"names no input, and the model has {len(inputs)}", fix)
            return Samples(self.path, tuple(inputs), {names[0]: self.columns[ONLY]})
        for name in self.columns:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                meant = f"did you mean {near[0]!r}? " if near else ""
                raise DataError(
                    self.path, f"has data for {name!r}, which is no input", f"{meant}inputs are {', '.join(names)}"
                )
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(self.path, f"has no data for the input {missing[0]!r}", "add an array of that name")
        _check_counts(self.path, self.columns)
        return Samples(self.path, tuple(inputs), self.columns)


@dataclass(frozen=True)
class Samples:
    """Samples as a model takes them, read one at a time.

    Attributes:
        path: Where they lie; used in errors.
        inputs: The model's inputs.
        columns: The data of each input.
        limit: How many are given, evenly spaced over all; None gives all.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    columns: Mapping[str, Column]
    limit: int | None = None

    def __len__(self) -> int:
        total = len(next(iter(self.columns.values())))
        return total if self.limit is None else min(total, self.limit)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        total = len(next(iter(self.columns.values())))
        for i in range(len(self)):
            at = i * total // len(self)
            yield {spec.name: self._read(spec, at) for spec in self.inputs}

    def take(self, limit: int) -> Samples:
        """Return at most `limit` of the samples, evenly spaced."""
        return Samples(self.path, self.inputs, self.columns, limit)

    def _read(self, spec: TensorSpec, index: int) -> Array:
        subject = f"{self.path}, sample {index} of {spec.name!r}"
        try:
            return fit(subject, self.columns[spec.name][index], spec)
        except DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(subject, f"cannot be read ({error})", "check the file") from error


def fit(subject: str, value: Array, spec: TensorSpec) -> Array:
    """Check one sample against an input, and give it the batch of one and the dtype that the input takes.

    Args:
        subject: What the sample is, for errors.
        value: Any shape and dtype.
        spec: The input. A quantized one takes real values, float32.

    Returns:
        A contiguous array that the input accepts.

    Raises:
        DataError: If the shape, the dtype or a value does not fit.
    """
    value = np.asarray(value)
    shaped = value if spec.accepts(value.shape) else value[np.newaxis]
    if not spec.accepts(shaped.shape):
        reason = f"has shape {list(value.shape)}, and the input is {spec}"
        fix = "give samples along the first axis, each of the input's shape (for images: by layout in [preprocess])"
        raise DataError(subject, reason + _layout(shaped.shape, spec), fix)
    dtype = "float32" if spec.quantization else spec.dtype
    cast = _cast(subject, shaped, np.dtype(dtype))
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        what = "NaN" if np.isnan(cast).any() else "infinite values"
        raise DataError(subject, f"holds {what}", "remove such samples")
    _check_range(subject, cast, spec)
    return np.asarray(cast, order="C")


def _layout(shape: tuple[int, ...], spec: TensorSpec) -> str:
    """Say of a picture's shape that it would fit in the other layout."""
    if len(shape) > 4:
        shape = shape[1:]
    if len(shape) != 4:
        return ""
    for given, wanted, order in (("NCHW", "NHWC", (0, 2, 3, 1)), ("NHWC", "NCHW", (0, 3, 1, 2))):
        if spec.accepts(tuple(shape[i] for i in order)):
            return f": it looks like {given}, and the input is {wanted}"
    return ""


def _cast(subject: str, value: Array, dtype: np.dtype[np.generic]) -> Array:
    """Convert without loss: floats narrow to float32, integers only where every value survives."""
    wide = value.dtype.kind == "f" and dtype.kind == "f"
    integers = value.dtype.kind in "iu" and dtype.kind in "iu"
    if not (wide or integers or np.can_cast(value.dtype, dtype, "safe")):
        raise DataError(subject, f"is {value.dtype}, and the input is {dtype}", f"save the data as {dtype}")
    with np.errstate(over="ignore"):
        cast: Array = value.astype(dtype)
    if integers and not np.array_equal(cast, value):
        raise DataError(subject, f"has values that {dtype} cannot hold", f"save the data as {dtype}")
    return cast


def _check_range(subject: str, value: Array, spec: TensorSpec) -> None:
    """Refuse values that lie further outside a quantized input's range than the range is wide."""
    if spec.quantization is None or not value.size:
        return
    low, high = declared_range(spec)
    lowest, highest = float(value.min()), float(value.max())
    if lowest < 2 * low - high or highest > 2 * high - low:
        raise DataError(
            subject,
            f"lies in {lowest:.4g} to {highest:.4g}, and the input takes {low:.4g} to {high:.4g}",
            "scale the data as in training (real values, not stored integers)",
        )


def declared_range(spec: TensorSpec) -> tuple[float, float]:
    """Return the lowest and highest real value of an input.

    That is what its quantization can hold; without one 0 and 1 for floats and booleans, 0 and 9 for integers.
    """
    if spec.quantization is None:
        return (0.0, 9.0) if np.dtype(spec.dtype).kind in "iu" else (0.0, 1.0)
    limits = np.iinfo(spec.dtype)
    low, high = spec.quantization.dequantize(np.array([limits.min, limits.max], dtype=spec.dtype)).tolist()
    return (low, high)


def check_calibration(samples: Samples) -> dict[str, tuple[float, float]]:
    """Refuse samples from which no range can be taken; return the lowest and highest value of each float input.

    Raises:
        DataError: If an input has the same value everywhere, or values beyond `LARGEST`, or a sample does not fit.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for sample in samples:
        for name, value in sample.items():
            if value.dtype.kind == "f" and value.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    for name, (low, high) in ranges.items():
        if low == high:
            reason = f"is {low:.4g} in every sample of {name!r}: a range cannot be taken from one value"
            raise DataError(samples.path, reason, "give samples that are typical of use")
        if max(abs(low), abs(high)) > LARGEST:
            reason = f"lies in {low:.4g} to {high:.4g} for {name!r}, which leaves nothing of 256 steps"
            raise DataError(samples.path, reason, "scale the data as in training")
    return ranges


def open_data(path: Path, preprocess: Preprocess | None = None) -> Data:
    """Open data without knowing the model, reading no more than file headers where the form allows it.

    Args:
        path: A file or folder in one of the forms that the module names.
        preprocess: How images become inputs.

    Raises:
        MissingFileError: If there is nothing at `path`.
        DataError: If it has no samples, holds Python objects, or is of no known form.
    """
    if not path.exists():
        raise MissingFileError(path, "no such data", "check the path")
    columns = _open_folder(path, preprocess) if path.is_dir() else _open_file(path)
    counts = {name: len(column) for name, column in columns.items()}
    if not counts or min(counts.values()) == 0:
        raise DataError(path, "holds no samples", "give at least one")
    for signature in {_signature(name) for name in columns}:
        _check_counts(path, {name: column for name, column in columns.items() if _signature(name) == signature})
    return Data(path, columns)


def _signature(name: str) -> str:
    """Return what stands before the input's name where data are for several signatures."""
    return name.rpartition("/")[0]


def _check_counts(path: Path, columns: Mapping[str, Column]) -> None:
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(path, f"has unequal numbers of samples ({listed})", "give every input as many")


def _open_file(path: Path) -> dict[str, Column]:
    if not path.is_file():
        raise MissingFileError(path, "is no file", "check the path")
    with path.open("rb") as stream:
        magic = stream.read(6)
    try:
        if magic[:4] == b"PK\x03\x04":
            found = {name: open_array(path, member) for name, member in members(path).items()}
        elif magic == b"\x93NUMPY":
            found = {ONLY: open_array(path)}
        else:
            fix = "give one of them, a folder of .npy files, or a folder of images"
            raise DataError(path, "is neither .npy nor .npz", fix)
    except DAMAGED as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(path, error) from error
    for name, array in found.items():
        if not array.shape:
            subject = f"{path}, {name!r}" if name else path
            raise DataError(subject, "is a single number", "give an array with the samples along its first axis")
    return dict(found)


def _load_npy(path: Path) -> Array:
    try:
        with path.open("rb") as stream:
            array: Array = np.load(stream, allow_pickle=False)
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        raise DataError(path, "is no .npy file", "save one sample a file with numpy.save")
    return array


def _unreadable(path: Path, error: Exception) -> DataError:
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return DataError(path, "holds Python objects, which could run code when read", "save plain numeric arrays")
    return DataError(path, f"cannot be read ({error})", "save it again with numpy.save or numpy.savez")


def _open_folder(path: Path, preprocess: Preprocess | None, deeper: int = 2) -> dict[str, Column]:
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    folders = [p for p in entries if p.is_dir() and deeper]
    arrays = tuple(p for p in entries if p.suffix.lower() == ".npy")
    images = tuple(p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES)
    if arrays and images:
        raise DataError(path, "holds both .npy files and images", "keep one kind in a folder")
    if arrays:
        return {ONLY: ArrayFiles(arrays)}
    if images and preprocess is None:
        fix = (
            "add a [preprocess] table with resize, scale, mean, std and layout (an empty one takes pixels as they are)"
        )
        raise DataError(path, "holds images, and the recipe does not say how they become inputs", fix)
    if images and preprocess:
        return {ONLY: Images(images, preprocess)}
    columns: dict[str, Column] = {}
    for folder in folders:
        inside = _open_folder(folder, preprocess, deeper - 1) or {ONLY: ()}
        columns |= {"/".join(filter(None, (folder.name, name))): column for name, column in inside.items()}
    return columns


def random_samples(
    inputs: Sequence[TensorSpec], count: int, seed: int, shape: Mapping[str, tuple[int, ...]]
) -> Samples:
    """Return seeded random samples in the range that each input declares.

    Floats are uniform over the range of the input's quantization, else over [0, 1); integers are 0 to 9, booleans
    both values. A dynamic first dimension becomes a batch of one.

    Args:
        inputs: The model's inputs.
        count: How many.
        seed: Of NumPy's PCG64.
        shape: Dimensions by input name, for dynamic inputs.

    Raises:
        DataError: If a dynamic dimension other than the batch is left open.
    """
    random = np.random.default_rng(seed)
    columns = {}
    for spec in inputs:
        dims = tuple(shape.get(spec.name, spec.shape))
        dims = (1, *dims[1:]) if dims[:1] == (-1,) else dims
        if -1 in dims:
            fix = f"give --probe DATA, or --shape {spec.name}=..."
            raise DataError("random probe", f"the input {spec} has an open dimension", fix)
        columns[spec.name] = _random(random, spec, (count, *dims))
    return Samples(Path("random probe"), tuple(inputs), columns)


def _random(random: np.random.Generator, spec: TensorSpec, dims: tuple[int, ...]) -> Array:
    kind = np.dtype(spec.dtype).kind
    if spec.quantization or kind == "f":
        low, high = declared_range(spec)
        return random.uniform(low, high, dims).astype("float32" if spec.quantization else spec.dtype)
    if kind == "b":
        return random.integers(0, 2, dims).astype(bool)
    if kind in "iu":
        return random.integers(0, 10, dims).astype(spec.dtype)
    raise DataError("random probe", f"cannot be made for the input {spec}", "give --probe DATA")
