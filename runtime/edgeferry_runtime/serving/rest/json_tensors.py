"""Tensors in JSON as TensorFlow Serving and TorchServe write them: numbers or texts in nested lists.

Source: TensorFlow Serving, "RESTful API", sections "JSON mapping", "Encoding binary values" and "JSON conformance": the
tokens NaN, Infinity and -Infinity, which RFC 8259 lacks, are numbers. Python's `json`, with which TorchServe's handlers
write, does the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.tensors import Array, TensorSpec

TOKENS = re.compile(rb"\b(?:NaN|Infinity)\b")
DEEPEST = 32
"""Lists in one another; no tensor has more dimensions."""

BINARY = "b64"
BINARY_SUFFIX = "_bytes"
"""What the name of a tensor of texts ends in whose values are binary."""


def read_json(body: bytes) -> Any:
    """Read JSON in which NaN, Infinity and -Infinity may stand.

    Raises:
        RefusedError: INVALID if it is none, or a number is too large for float64.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not TOKENS.search(body):
            raise _no_json(str(error)) from error
    try:
        return json.loads(body, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _no_json(str(error)) from error


def _no_json(why: str) -> RefusedError:
    return RefusedError(Kind.INVALID, "the body", f"is no JSON ({why[:200]})", "send JSON in UTF-8")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


def binary(value: Any) -> bytes | None:
    """Return what ``{"b64": TEXT}`` holds; None where it is something else.

    Raises:
        RefusedError: INVALID if the text is no base64.
    """
    if not isinstance(value, Mapping) or list(value) != [BINARY] or not isinstance(value[BINARY], str):
        return None
    return from_base64(value[BINARY])


def from_base64(text: str) -> bytes:
    """Decode base64.

    Raises:
        RefusedError: INVALID if it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(Kind.INVALID, "a base64 text", f"cannot be decoded ({error})", "send base64") from error


def tensor(spec: TensorSpec, value: Any, stored: bool = False) -> Array:
    """Make an array of what stands in JSON.

    Args:
        spec: The input that it is for.
        value: Numbers in nested lists; for an input of texts, strings and ``{"b64": ...}``.
        stored: Whether a quantized input's numbers are stored ones, rather than real ones.

    Returns:
        An array of the shape that was given. Stored numbers are of the input's dtype; others are float64, int64,
        uint64 or bool, which the model casts.

    Raises:
        DataError: If it is ragged, holds something else, or a stored number that the dtype does not hold.
    """
    if spec.dtype == "object":
        return _texts(spec, value)
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise DataError(f"input {spec.name}", "is a ragged list", "give lists of the same length") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"input {spec.name}", "holds something else than numbers", f"it takes {spec}")
    if spec.quantization is None:
        return _whole(value, found) if spec.dtype == "uint64" and found.dtype.kind == "f" else found
    return _stored(spec, found) if stored else found.astype(np.float64)


def _whole(value: Any, found: Array) -> Array:
    """Take whole numbers as they are, of which NumPy makes floats where some are and some are not below 2**63."""
    whole = np.array(value, dtype=object)
    return whole.astype(np.uint64) if all(type(number) is int and number >= 0 for number in whole.flat) else found


def _stored(spec: TensorSpec, found: Array) -> Array:
    limits = np.iinfo(spec.dtype)
    fits = found.dtype.kind in "iu" and (not found.size or limits.min <= found.min() <= found.max() <= limits.max)
    if not fits:
        reason = f"holds something else than stored integers of {spec.dtype}"
        raise DataError(f"input {spec.name}", reason, f"give {limits.min} to {limits.max}")
    return found.astype(spec.dtype)


def _texts(spec: TensorSpec, value: Any) -> Array:
    found = np.array(_decoded(spec, value), dtype=object)
    if not all(isinstance(text, (str, bytes)) for text in found.flat):
        raise DataError(f"input {spec.name}", "holds something else than texts", 'give strings, or {"b64": ...}')
    return found


def _decoded(spec: TensorSpec, value: Any, depth: int = 0) -> Any:
    """Replace each ``{"b64": ...}`` by a text, or where it is none by bytes."""
    if depth > DEEPEST:
        raise DataError(f"input {spec.name}", f"is nested deeper than {DEEPEST} lists", f"it takes {spec}")
    if isinstance(value, list):
        return [_decoded(spec, part, depth + 1) for part in value]
    held = binary(value)
    return value if held is None else _text(held)


def _text(held: bytes) -> str | bytes:
    try:
        return held.decode()
    except UnicodeDecodeError:
        return held


def written(name: str, value: Array) -> Any:
    """Return what `json_answer` writes as an output's values.

    Args:
        name: The output.
        value: Its values, or one of them.

    Raises:
        RefusedError: INVALID for complex numbers, which JSON cannot hold.
    """
    if value.dtype.kind == "O":
        return _written_texts(value.tolist(), name.endswith(BINARY_SUFFIX))
    if value.dtype.kind == "c":
        raise RefusedError(Kind.INVALID, f"output {name}", "holds complex numbers", "ask by another protocol")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        return [written(name, part) for part in value] if value.ndim else orjson.Fragment(json.dumps(float(value)))
    return np.ascontiguousarray(value) if value.ndim else value[()]


def _written_texts(value: Any, as_binary: bool) -> Any:
    if isinstance(value, list):
        return [_written_texts(part, as_binary) for part in value]
    held = value if isinstance(value, bytes) else str(value).encode()
    text = held if as_binary else _text(held)
    return text if isinstance(text, str) else {BINARY: base64.b64encode(text).decode()}


def columns(outputs: Mapping[str, Array]) -> Any:
    """Return whole outputs: the only one, or each by its name."""
    named = {name: written(name, value) for name, value in outputs.items()}
    return next(iter(named.values())) if len(named) == 1 else named


def rows(outputs: Mapping[str, Array]) -> Any:
    """Return a list of what belongs to each row: a value of the only output, or values by name.

    Raises:
        RefusedError: INVALID if the outputs have no rows, or not the same number.
    """
    counts = {name: value.shape[0] if value.ndim else None for name, value in outputs.items()}
    if None in counts.values() or len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {'has none' if n is None else n}" for name, n in counts.items())
        fix = 'ask in column format, with "inputs" in place of "instances"'
        raise RefusedError(Kind.INVALID, "the outputs", f"have no common number of rows ({listed})", fix)
    if len(outputs) == 1:
        return columns(outputs)
    return [
        {name: written(name, row) for name, row in zip(outputs, values, strict=True)}
        for values in zip(*outputs.values(), strict=True)
    ]
