"""From what a client sent to what the engine takes, and back: each tensor real or stored, as the client wishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from edgeferry_runtime.codec import decoder, encoder
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, TensorSpec


class Run(Protocol):
    """Runs a model once on stored values: see `Model.run`."""

    def __call__(self, feeds: Mapping[str, Array], *, raw: bool = False) -> dict[str, Array]:
        """Run once."""
        ...


class Coding:
    """Encodes, runs and decodes.

    Args:
        inputs: The model's inputs.
        outputs: The model's outputs.
        run: Runs the model once.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], run: Run) -> None:
        self._run = run
        self._inputs = {spec.name: spec for spec in inputs}
        loose = [(spec, replace(spec, shape=(-1, *spec.shape[1:])) if spec.shape else spec) for spec in inputs]
        self._encoders = {
            spec.name: (np.dtype(spec.dtype), encoder(wide, raw=True), encoder(wide)) for spec, wide in loose
        }
        self._decoders = {spec.name: decoder(spec) for spec in outputs}
        self._fixed = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] > 0}
        self._splits = len(self._fixed) == 1 and all(spec.shape and spec.shape[0] > 0 for spec in inputs)

    def run(self, feeds: Mapping[str, Array], outputs: Mapping[str, bool]) -> dict[str, Array]:
        """Run on arrays of any number of rows.

        Args:
            feeds: An array for each input; of a quantized input's stored dtype, its values are stored ones.
            outputs: The outputs to return, and whether as stored values.

        Raises:
            DataError: If a name, shape or dtype does not fit.
            EngineError: If the engine fails.
        """
        return self.decode(self.execute(self.encode(feeds)), outputs)

    def encode(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the engine takes.

        Raises:
            DataError: If a name, shape or dtype does not fit.
        """
        self._check_names(feeds)
        return {name: self._encode(name, value) for name, value in feeds.items()}

    def decode(self, found: Mapping[str, Array], outputs: Mapping[str, bool]) -> dict[str, Array]:
        """Return of what the engine gave the outputs that are wanted, each as stored values or real ones."""
        return {name: self._decode(name, found[name], stored) for name, stored in outputs.items()}

    def _check_names(self, feeds: Mapping[str, Array]) -> None:
        for name in feeds:
            if name not in self._inputs:
                raise DataError(f"input {name!r}", "is none of the model's", f"valid are {', '.join(self._inputs)}")
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise DataError("the model", f"was given no input {', '.join(missing)}", "give an array for each input")

    def _encode(self, name: str, value: Array) -> Array:
        dtype, stored, real = self._encoders[name]
        return stored(value) if value.dtype == dtype else real(value)

    def _decode(self, name: str, value: Array, stored: bool) -> Array:
        decode = None if stored else self._decoders[name]
        return decode(value) if decode else value

    def execute(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on stored values: once, or a fixed batch at a time.

        Raises:
            DataError: If the inputs of a fixed batch differ in rows, or have none.
            EngineError: If the engine fails.
        """
        rows = {value.shape[0] for value in feeds.values() if value.ndim}
        if not self._splits or rows == self._fixed:
            return self._run(feeds, raw=True)
        (batch,) = self._fixed
        if len(rows) != 1:
            raise DataError("the inputs", f"have {sorted(rows)} rows", "give each the same number")
        (count,) = rows
        if not count:
            raise DataError("the inputs", "have no rows", "give at least one")
        parts = [self._run(_rows(feeds, i, batch), raw=True) for i in range(0, count, batch)]
        return {name: _join(name, [part[name] for part in parts], batch)[:count] for name in parts[0]}


def _rows(feeds: Mapping[str, Array], start: int, batch: int) -> dict[str, Array]:
    """Cut a batch out of arrays; the last one is filled up with its last row."""
    cut = {name: value[start : start + batch] for name, value in feeds.items()}
    return {name: _padded(value, batch) for name, value in cut.items()}


def _padded(value: Array, batch: int) -> Array:
    missing = batch - len(value)
    return np.concatenate([value, np.repeat(value[-1:], missing, axis=0)]) if missing else value


def _join(name: str, parts: list[Array], batch: int) -> Array:
    if any(part.ndim == 0 or part.shape[0] != batch for part in parts):
        raise DataError(f"output {name}", "has no batch axis", f"send {batch} rows at a time")
    return np.concatenate(parts)
