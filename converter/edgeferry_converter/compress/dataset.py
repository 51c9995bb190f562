"""Labelled samples of every form become lessons: checked as a whole, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.comparison.accuracy import LABELS, Labelled, open_labelled
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import Network
from edgeferry_converter.data import DAMAGED, ONLY, fit
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, TensorSpec

Columns = dict[str, Array]
"""Arrays by name, of which some are inputs and some the truth; of [samples, ...]."""
FORMS = "give (inputs, labels), a dict of arrays with 'label', or batches of one of them"


@dataclass(frozen=True)
class Target:
    """What is trained and judged.

    Attributes:
        output: The output's name.
        size: How many values it has a sample.
        metric: ``top1``, ``mse`` or ``auc``; for a function that judges, what its labels would be judged by.
    """

    output: str
    size: int
    metric: str


def read(where: str, given: object) -> Columns:
    """Read labelled samples into memory.

    Args:
        where: What they are called in errors.
        given: A path of an ``.npz``; ``(inputs, labels)``, inputs being one array or several by name; arrays by name,
            one called ``label``; or an iterable of such batches, which has an end.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is nothing of that, is empty, or its arrays are of different lengths.
    """
    columns = _file(Path(given)) if isinstance(given, str | Path) else _columns(where, given)
    counts = {name: len(values) for name, values in columns.items()}
    if not counts or not max(counts.values()):
        raise DataError(where, "holds no samples", "give at least one")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name or 'inputs'}: {count}" for name, count in counts.items())
        raise DataError(where, f"has unequal numbers of samples ({listed})", "give every input and label as many")
    return columns


def lessons(where: str, columns: Columns, network: Network, target: Target) -> Lessons:
    """Make what was read fit a network.

    Raises:
        DataError: If names, shapes, dtypes or values do not fit; names the sample and the value.
    """
    labels = Labelled(Path(where), columns).truth(target.output)
    return Lessons(inputs(where, columns, network), truth(where, labels, target))


def inputs(where: str, columns: Columns, network: Network) -> Columns:
    """Return the inputs by name, of [samples, ...], as a network takes them.

    Raises:
        DataError: If names, shapes, dtypes or values do not fit.
    """
    specs = [replace(spec, shape=(1, *spec.shape[1:])) for spec in network.inputs]
    found = Labelled(Path(where), columns).inputs(specs).bind(specs).columns
    return {spec.name: _fitting(where, spec, np.asarray(found[spec.name])) for spec in specs}


def truth(where: str, labels: Array, target: Target) -> Array:
    """Return labels as losses and metrics take them: class numbers, int64 of [samples], or values, float32.

    Raises:
        DataError: For the first label that is none, with its index.
    """
    flat = labels.reshape(len(labels), -1)
    if flat.dtype.kind not in "iufb":
        raise DataError(f"{where}, labels", f"are {flat.dtype}, no numbers", "give class numbers or values")
    _refuse(where, labels, ~np.isfinite(flat).all(1), "is not finite", "remove such samples")
    if target.metric == "mse":
        if flat.shape[1] != target.size:
            reason = f"has {flat.shape[1]} reference values a sample, and the output {target.size}"
            raise DataError(where, reason, "give as many")
        return flat.astype(np.float32)
    return _classes(where, flat, target)


def _classes(where: str, flat: Array, target: Target) -> Array:
    """Return class numbers, of numbers or of one-hot rows."""
    size = max(2, target.size)
    if flat.shape[1] == size:
        ones = (np.isin(flat, (0, 1)).all(1)) & (flat.sum(1) == 1)
        _refuse(where, flat, ~ones, "is not one-hot", "give class numbers, or one 1 a sample; for values metric mse")
        classes: Array = flat.argmax(1)
        return classes
    if flat.shape[1] != 1:
        reason = f"has {flat.shape[1]} labels a sample, and the output {target.size} values"
        raise DataError(where, reason, f"give class numbers from 0 to {size - 1}, or one-hot rows")
    reason = f"is none of the {size} classes" if target.size > 1 else "is neither 0 nor 1, for an output of one value"
    fix = f"give whole numbers from 0 to {size - 1}, or metric mse for values that are to be predicted"
    _refuse(where, flat[:, 0], ~np.isin(flat[:, 0], np.arange(size)), reason, fix)
    return flat[:, 0].astype(np.int64)


def _refuse(where: str, labels: Array, wrong: Any, reason: str, fix: str) -> None:
    if wrong.any():
        index = int(wrong.argmax())
        value = str(labels[index].tolist())
        raise DataError(f"{where}, sample {index}", f"its label {value[:60]} {reason}", fix)


def _fitting(where: str, spec: TensorSpec, values: Array) -> Array:
    """Return samples in the shape and dtype of an input, or raise what is wrong with the first that does not fit."""
    subject = f"{where}, sample {{}} of {spec.name!r}".format
    first = fit(subject(0), values[0], spec)
    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = values.reshape(len(values), *first.shape[1:]).astype(first.dtype)
    flat, own = cast.reshape(len(cast), -1), values.reshape(len(values), -1)
    wrong = ~np.isfinite(flat).all(1) if cast.dtype.kind == "f" else (flat != own).any(1)
    if wrong.any():
        fit(subject(int(wrong.argmax())), values[int(wrong.argmax())], spec)
    return cast


def _file(path: Path) -> Columns:
    names = open_labelled(path).columns
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except DAMAGED as error:
        raise DataError(path, f"cannot be read ({error})", "save it again with numpy.savez") from error


def _columns(where: str, given: object) -> Columns:
    if isinstance(given, Mapping):
        return {str(name): _array(where, values) for name, values in given.items()}
    if isinstance(given, tuple | list) and len(given) == 2 and not all(map(_is_batch, given)):
        inputs, labels = given
        named = inputs if isinstance(inputs, Mapping) else {ONLY: inputs}
        return {**_columns(where, named), LABELS[0]: _array(where, labels)}
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | np.ndarray):
        return _joined(where, [_columns(where, batch) for batch in given if _is_batch(batch) or _refused(where, batch)])
    _refused(where, given)
    raise AssertionError


def _is_batch(value: object) -> bool:
    """Tell whether something is a batch by itself: a pair, or arrays by name with a label."""
    if isinstance(value, Mapping):
        return any(name in value for name in LABELS)
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return any(hasattr(part, "shape") or isinstance(part, Mapping) for part in value)


def _refused(where: str, given: object) -> bool:
    raise DataError(where, f"is {type(given).__name__}, no labelled samples", FORMS)


def _joined(where: str, batches: list[Columns]) -> Columns:
    if not batches:
        return {}
    begin = 0
    for batch in batches:
        for name, first in batches[0].items():
            if name not in batch or batch[name].shape[1:] != first.shape[1:]:
                shape = list(batch[name].shape[1:]) if name in batch else "nothing"
                reason = f"has {shape} for {name or 'the input'!r}, and sample 0 {list(first.shape[1:])}"
                raise DataError(f"{where}, sample {begin}", reason, "give samples of one shape")
        begin += len(next(iter(batch.values())))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _array(where: str, values: object) -> Array:
    """Return an array of numbers with a first axis; tensors of a framework on the CPU are taken too."""
    convert: Callable[[], object] = getattr(values, "numpy", lambda: values)
    try:
        array = np.asarray(convert())
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(where, f"holds {type(values).__name__}, no array ({error})", FORMS) from error
    if array.dtype.kind not in "iufb" or not array.shape:
        what = f"{array.dtype} {list(array.shape)}"
        raise DataError(where, f"holds {what}, and no array of numbers with samples along its first axis", FORMS)
    return array
