"""A stream of samples, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_runtime.errors import DataError, UsageError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model

Sample = Mapping[str, Array]


def predict_batches(
    model: Model, samples: Iterable[Any], batch_size: int, *, raw: bool
) -> Iterator[Array | dict[str, Array]]:
    """Run a model over a stream; see `Model.predict_batches`."""
    if batch_size < 1:
        raise UsageError("batch_size", f"is {batch_size}", "give at least 1")
    return _predict(model, iter(samples), batch_size, _batch_of(model), raw)


def _predict(
    model: Model, samples: Iterator[Any], batch_size: int, fixed: int | None, raw: bool
) -> Iterator[Array | dict[str, Array]]:
    while given := list(islice(samples, batch_size)):
        batch = [_sample(model.inputs, value) for value in given]
        size = fixed or len(batch)
        answers = [_run(model, batch[at : at + size], size, raw) for at in range(0, len(batch), size)]
        joined = {s.name: np.concatenate([answer[s.name] for answer in answers]) for s in model.outputs}
        yield joined if len(joined) > 1 else joined[model.outputs[0].name]


def _batch_of(model: Model) -> int | None:
    """Return the size of batch that every input has; None where it is any."""
    sizes = {spec.shape[0] if spec.shape else 0 for spec in model.inputs}
    if len(sizes) != 1 or 0 in sizes:
        reason = f"has inputs of no common batch: {', '.join(map(str, model.inputs))}"
        raise DataError(model.path, reason, "call the model itself")
    size = sizes.pop()
    return None if size < 0 else size


def _sample(specs: Sequence[TensorSpec], value: Any) -> Sample:
    """Return the arrays of one sample by input name, without the batch axis."""
    named = isinstance(value, Mapping)
    if not named and len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError("a sample", f"is one array for {len(specs)} inputs", f"give a mapping of {names}")
    if named and set(value) != {spec.name for spec in specs}:
        valid = ", ".join(spec.name for spec in specs)
        raise DataError("a sample", f"has the inputs {', '.join(map(str, value))}", f"give a mapping of {valid}")
    return {spec.name: _row(spec, np.asarray(value[spec.name] if named else value)) for spec in specs}


def _row(spec: TensorSpec, values: Array) -> Array:
    if spec.accepts((spec.shape[0], *values.shape)):
        return values
    if values.shape[:1] == (1,) and spec.accepts((spec.shape[0], *values.shape[1:])):
        row: Array = values[0]
        return row
    given = f"{values.dtype}[{'x'.join(map(str, values.shape))}]"
    raise DataError(f"a sample of {spec.name}", f"is {given}, and a batch is {spec}", "give one sample of that batch")


def _run(model: Model, batch: Sequence[Sample], size: int, raw: bool) -> dict[str, Array]:
    """Run once on samples that a batch of `size` holds, and return a row for each."""
    padded = [*batch, *[batch[-1]] * (size - len(batch))]
    feeds = {spec.name: _stacked([sample[spec.name] for sample in padded], spec) for spec in model.inputs}
    found = model.run(feeds, raw=raw)
    return {name: _rows(name, values, size)[: len(batch)] for name, values in found.items()}


def _stacked(rows: Sequence[Array], spec: TensorSpec) -> Array:
    if len(rows) == 1:
        return rows[0][np.newaxis]
    if len({row.shape for row in rows}) > 1:
        shapes = ", ".join(sorted({"x".join(map(str, row.shape)) for row in rows}))
        raise DataError(f"samples of {spec.name}", f"are of several shapes: {shapes}", "use batch_size=1")
    return np.stack(rows)


def _rows(name: str, values: Array, size: int) -> Array:
    if values.shape[:1] == (size,):
        return values
    if size == 1:
        return values[np.newaxis]
    shape = "x".join(map(str, values.shape))
    raise DataError(f"output {name}", f"is [{shape}] for a batch of {size}: it has no batch axis", "use batch_size=1")
