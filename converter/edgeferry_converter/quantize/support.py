"""Which precision goes onto which format, and why not: one table.

What it refuses is refused before any framework is imported. What it allows was run in the format's engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize.rounding import NEAREST
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.numerics import TOLERANCES

INT4 = ("dynamic-int4", "weight-only-int4")
INT8_BELOW = {"dynamic-int4": "dynamic", "weight-only-int4": "weight-only"}
"""What the operators get that are no matrix multiplications: int4 ruins convolutions."""

STATIC = ("int8", "int16x8")
"""They need the range of every activation."""

BLOCK_SIZES = (0, 32, 64)
IO_DTYPES = ("float32", "int8", "uint8")
ACTIVATIONS = ("int8", "uint8")


@dataclass(frozen=True)
class Way:
    """One combination that a recipe can ask for.

    Attributes:
        to: The format.
        quantize: The precision.
        block_size: Weights that share a scale along the depth of a matrix; 0 is one scale per channel.
        io_dtype: Of float inputs and outputs.
        activations: The integer that ``int8`` stores activations in.
    """

    to: str
    quantize: str
    block_size: int = 0
    io_dtype: str = "float32"
    activations: str = "int8"


class _Asked(Protocol):
    """A recipe, as far as this table looks at it."""

    @property
    def to(self) -> str: ...
    @property
    def quantize(self) -> str: ...
    @property
    def block_size(self) -> int: ...
    @property
    def io_dtype(self) -> str: ...
    @property
    def activations(self) -> str: ...
    @property
    def rounding(self) -> str: ...
    @property
    def override(self) -> Sequence[Override]: ...
    @property
    def aeq_recipe(self) -> Path | None: ...


@dataclass(frozen=True)
class Refusal:
    """Why a combination is not to be had.

    Attributes:
        subject: The option that is in the way.
        reason: Why.
        fix: What to ask for instead.
    """

    subject: str
    reason: str
    fix: str


def refusal(way: Way) -> Refusal | None:
    """Say why a combination cannot be had; None where it can."""
    return _blocks(way) or _borders(way) or _activations(way)


def _blocks(way: Way) -> Refusal | None:
    subject = f"--block-size {way.block_size}"
    if way.block_size and way.quantize not in INT4:
        reason = f"is for int4 weights, and --quantize is {way.quantize}"
        return Refusal(subject, reason, "leave it out, or use --quantize weight-only-int4")
    return None


def _borders(way: Way) -> Refusal | None:
    subject = f"--io-dtype {way.io_dtype}"
    if way.io_dtype == "float32":
        return None
    if way.quantize != "int8":
        return Refusal(subject, f"needs int8 activations, and --quantize is {way.quantize}", "add --quantize int8")
    if way.to == "onnx" and way.io_dtype != way.activations:
        reason = f"the model's activations are {way.activations}, and its inputs and outputs are of the same kind"
        return Refusal(subject, reason, f"add --activations {way.io_dtype}")
    return None


def _activations(way: Way) -> Refusal | None:
    if way.activations == "int8":
        return None
    if way.to == "tflite":
        reason = "TFLite's operators compute with int8 activations"
        return Refusal(
            "--activations uint8", reason, "leave it out, or use --to onnx; --io-dtype uint8 is another thing"
        )
    if way.quantize != "int8":
        reason = f"needs int8 activations, and --quantize is {way.quantize}"
        return Refusal("--activations uint8", reason, "add --quantize int8")
    return None


def check(recipe: _Asked) -> None:
    """Refuse a recipe whose format does not have its precision.

    Raises:
        UsageError: With the reason and what to ask for instead.
    """
    way = Way(recipe.to, recipe.quantize, recipe.block_size, recipe.io_dtype, recipe.activations)
    found = refusal(way)
    if found:
        raise UsageError(found.subject, found.reason, found.fix)
    if recipe.aeq_recipe is not None:
        _check_aeq(recipe)
    if recipe.rounding != NEAREST:
        _check_rounding(recipe)
    for override in recipe.override:
        _check_override(recipe, override)


def _check_aeq(recipe: _Asked) -> None:
    """A recipe of ai-edge-quantizer says it all: nothing of ours may stand beside it."""
    if recipe.to != "tflite":
        raise UsageError(recipe.aeq_recipe, "is a recipe for TFLite", "use --to tflite, or write a recipe in TOML")
    if recipe.quantize == "none":
        reason = "quantizes, and --quantize none tells no tolerance for that"
        raise UsageError(recipe.aeq_recipe, reason, "name the coarsest precision in it with --quantize")
    for key, default in (("override", ()), ("block_size", 0), ("io_dtype", "float32"), ("rounding", NEAREST)):
        if getattr(recipe, key) != default:
            flag = "--" + key.replace("_", "-")
            raise UsageError(flag, f"cannot be combined with {recipe.aeq_recipe}", "write it into that file")


def _check_rounding(recipe: _Asked) -> None:
    """GPTQ is for weights of TFLite that are integers with a scale per channel."""
    subject = f"--rounding {recipe.rounding}"
    if recipe.to != "tflite":
        raise UsageError(subject, "is for TFLite, and --to is onnx", "leave it out, or use --to tflite")
    if recipe.block_size:
        reason = f"is for weights with a scale per channel, and --block-size is {recipe.block_size}"
        raise UsageError(subject, reason, "leave one of them out")
    precisions = {recipe.quantize, *(override.precision for override in recipe.override)}
    if precisions <= {"none", "fp16"}:
        reason = f"rounds integer weights, and --quantize {recipe.quantize} has none"
        raise UsageError(subject, reason, "leave it out, or use --quantize int8")


def _check_override(recipe: _Asked, override: Override) -> None:
    if recipe.quantize == "none" and override.precision == "none":
        raise UsageError(override, "has nothing to override: every layer is float32", "add --quantize int8, or another")


def needs_ranges(quantize: str, overrides: Sequence[Override] = ()) -> bool:
    """Tell whether calibration samples are needed."""
    return quantize in STATIC or any(override.precision in STATIC for override in overrides)


def ways(to: str) -> Iterator[Way]:
    """Yield every combination that a format has."""
    every = (
        Way(to, quantize, block_size, io_dtype, activations)
        for quantize in TOLERANCES
        for block_size in BLOCK_SIZES
        for io_dtype in IO_DTYPES
        for activations in ACTIVATIONS
    )
    return (way for way in every if refusal(way) is None)
