"""Quantization-aware training: the network computes as its artifact will, and learns to do so well.

Fake quantization with straight-through gradients (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", section 3), on exactly the grid of the artifact: `compress.grid`. What
comes out is a plain float model whose weights lie on that grid, and the ranges of its activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.grid import FLOAT_BITS, STATIC, Grid, Ranges
from edgeferry_converter.compress.methods import Context, check_number
from edgeferry_converter.compress.methods.masking import keep_zeros
from edgeferry_converter.overrides import Layer, Override, resolve
from edgeferry_converter.quantize.rounding import NEAREST
from edgeferry_converter.quantize.support import INT4
from edgeferry_runtime.errors import ConversionError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.network import Arrays, Network, Simulated, Weight
    from edgeferry_converter.recipe import Recipe

PRECISIONS = (STATIC, "weight-only", "dynamic", *INT4)
OBSERVED, LEARNED = "observed", "learned"
RANGES = (OBSERVED, LEARNED)
CONVOLUTIONS = ("int8", "int4")

OPERATORS: Mapping[str, str] = {
    "convolution": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "transposed": "TRANSPOSE_CONV",
    "dense": "FULLY_CONNECTED",
}
"""What TFLite calls each kind of weight."""
NARROW = ("CONV_2D", "FULLY_CONNECTED")
"""The operators that can have int4 weights."""
BITS: Mapping[str, int] = {"none": FLOAT_BITS, STATIC: 8, "weight-only": 8, "dynamic": 8, **dict.fromkeys(INT4, 4)}
STORED: Mapping[int, str] = {8: "int8", 4: "int4", FLOAT_BITS: "float32"}


@dataclass(frozen=True)
class Quantize:
    """A step that trains for a precision.

    Attributes:
        precision: As ``ferry convert --quantize`` has it, one of `PRECISIONS`. Those of int4 give it to matrices, and
            int8 to the rest.
        convolutions: ``int4`` lets ordinary convolutions have it too; depthwise and transposed ones stay int8, since no
            artifact has them narrower.
        override: Layers of another precision, as in a recipe of ``ferry convert``: tables with ``layer`` (of the
            network, a shell pattern) or ``operator`` (as TFLite calls it), and ``precision``.
        ranges: ``observed`` ranges of activations are moving averages; ``learned`` ones are trained.
        freeze: The share of all steps after which observed ranges stay, 0 to 1.
        samples: How many samples of the training data say the first ranges.
    """

    precision: str = STATIC
    convolutions: str = CONVOLUTIONS[0]
    override: tuple[Any, ...] = ()
    ranges: str = OBSERVED
    freeze: float = 0.5
    samples: int = 256

    def __post_init__(self) -> None:
        for key, valid in {"precision": PRECISIONS, "ranges": RANGES, "convolutions": CONVOLUTIONS}.items():
            if getattr(self, key) not in valid:
                raise UnknownNameError(f"step quantize: {key}", str(getattr(self, key)), valid)
        check_number("step quantize: freeze", self.freeze, 0, 1)
        check_number("step quantize: samples", self.samples, 1, 1_000_000, whole=True)
        if self.convolutions == "int4" and self.precision not in INT4:
            reason = f"is for int4 weights, and precision is {self.precision}"
            raise UsageError('convolutions = "int4"', reason, 'leave it out, or use precision = "weight-only-int4"')
        object.__setattr__(self, "override", _overrides(self.override))

    def begin(self, network: Network, context: Context) -> Quantizing:
        """Make the network compute as its artifact will.

        Raises:
            UsageError: If an override matches no layer, or one that cannot have its precision, or names a layer where
                the artifact will not know it.
            ConversionError: If the model cannot be rewritten, or with ``strict`` if a layer is not simulated.
        """
        self._check_names(network)
        grid = self._grid(network)
        facts = {
            "precision": self.precision,
            "layers": {w.layer: STORED[grid.bits_of(w.name)] for w in network.weights()},
        }
        simulated = network.simulated(grid)
        for layer, reason in simulated.kept.items():
            if context.strict:
                raise ConversionError(f"{network.name}: layer {layer!r}", reason, "leave --strict out to keep it so")
            context.warn(f"{layer}: {reason}")
        keep_zeros(simulated)
        chosen = np.linspace(0, len(context.lessons) - 1, min(self.samples, len(context.lessons)))
        simulated.calibrate(context.lessons.at(chosen.astype(np.int64)).inputs)
        freeze = max(1, math.ceil(self.freeze * context.course.steps))
        return Quantizing(simulated, {**facts, "kept": dict(simulated.kept)}, self, freeze)

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe of ``ferry convert`` that would make other integers than a network is trained for.

        Raises:
            UsageError: If its precision is another, its rounding is not to the nearest, or it stores blocks.
        """
        if recipe.quantize not in ("none", self.precision):
            reason = f"is not {self.precision}, which a step trains for"
            raise UsageError(f"convert: quantize {recipe.quantize}", reason, "leave it out, or train for it")
        if recipe.rounding != NEAREST or recipe.block_size:
            reason = "would make other integers of the weights than the network was trained for"
            raise UsageError("convert: rounding and block_size", reason, "leave them out")

    def converted_by(self, recipe: Recipe, network: Network) -> Recipe:
        """Return a recipe of ``ferry convert`` that stores a network with the integers that it was trained for.

        Args:
            recipe: The rest of the recipe.
            network: What training settled.

        Raises:
            UsageError: As `check_recipe` does; or for ONNX, where an operator cannot tell int4 convolutions from
                depthwise ones that were trained for int8.
        """
        self.check_recipe(recipe)
        overrides: tuple[Override, ...] = self.override
        kinds = {weight.kind for weight in network.weights()}
        if self.convolutions == "int4" and "convolution" in kinds:
            if recipe.to == "onnx" and "depthwise" in kinds:
                reason = "would give depthwise convolutions int4 on ONNX, and they were trained for int8"
                raise UsageError('convolutions = "int4"', reason, 'use to = "tflite", or name layers by override')
            operator = "CONV_2D" if recipe.to == "tflite" else "Conv"
            overrides = (Override(self.precision, operator=operator), *overrides)
        return replace(recipe, quantize=self.precision, override=(*recipe.override, *overrides))

    def _check_names(self, network: Network) -> None:
        for override in self.override:
            if override.layer is not None and network.framework == "torch":
                reason = "names a layer, and artifacts of PyTorch models have no names of layers"
                raise UsageError(override, reason, f"name an operator, such as {' or '.join(OPERATORS.values())}")

    def _grid(self, network: Network) -> Grid:
        weights, own = network.weights(), BITS[self.precision]
        found = {weight.name: self._bits(weight) for weight in weights}
        layers = [Layer((weight.layer,), OPERATORS[weight.kind]) for weight in weights]
        for i, override in resolve(self.override, layers).items():
            _check(override, layers[i])
            found[weights[i].name] = BITS[override.precision]
        bits = {name: bits for name, bits in found.items() if bits != own}
        return Grid(self.precision, own, self.precision == STATIC, self.ranges == LEARNED, bits)

    def _bits(self, weight: Weight) -> int:
        narrow = weight.kind == "dense" or (weight.kind == "convolution" and self.convolutions == "int4")
        return 4 if self.precision in INT4 and narrow else 8


@dataclass
class Quantizing:
    """Training for a precision.

    Attributes:
        network: The simulation.
        facts: ``precision``, ``layers`` (what each layer of weights is stored as), and ``kept`` (layers that are not
            simulated as a whole, with reasons).
        options: What was asked for.
        freeze: The step in which observed ranges come to rest.
        ranges: Those of the settled network; empty before `finish`.
    """

    network: Simulated
    facts: dict[str, Any]
    options: Quantize
    freeze: int
    ranges: Ranges = field(default_factory=Ranges)

    def after_step(self, step: int) -> None:
        """Freeze the ranges when it is time."""
        if step == self.freeze:
            self.network.freeze()

    def state(self) -> Arrays:
        """Return nothing: ranges are in the network's own state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""

    def finish(self) -> Network:
        """Return the plain float network on the grid, and keep its ranges."""
        settled, self.ranges = self.network.settled()
        return settled


def _overrides(tables: object) -> tuple[Override, ...]:
    if not isinstance(tables, list | tuple) or not all(isinstance(one, Override | Mapping) for one in tables):
        raise UsageError("step quantize: override", "is no list of tables", "write each as [[step.override]]")
    found = tuple(one if isinstance(one, Override) else Override.from_dict(one) for one in tables)
    for override in found:
        if override.precision not in BITS:
            reason = "is not what training simulates"
            raise UsageError(override, reason, f"use one of {', '.join(BITS)}")
    return found


def _check(override: Override, layer: Layer) -> None:
    if BITS[override.precision] == 4 and layer.operator not in NARROW:
        reason = f"layer {layer.names[0]!r} is a {layer.operator}, which has no int4 weights"
        raise UsageError(override, reason, f"name layers that are {' or '.join(NARROW)}")
