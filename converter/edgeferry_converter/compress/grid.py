"""The grid of integers that weights and activations come to lie on, and what training learned of it.

The rules are those of ai-edge-quantizer, which makes our TFLite artifacts; weights on this grid are found again by
onnxruntime.quantization and by our own ONNX weights too (Jacob et al. 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", section 2.1).

- Weights are symmetric with a scale for each output channel: its largest magnitude by 127, or by 7 for 4 bits. All is
  computed in float32, and halves go to the even integer.
- Activations have 256 steps; the range is widened until it holds zero, and zero is one of the steps.
- A bias has the scale of the input times that of the channel's weights, and 32 bits.
- Softmax and logistic give steps of 1/256 from 0, tanh steps of 1/128 around 0 (`FIXED`).
- What moves values without changing them has the parameters of its input: reshapes, slices, padding with zeros, max
  pooling; so do average pooling and resizing, which round. Concatenation and maximum bring their inputs to their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeferry_runtime.tensors import Array

STATIC = "int8"
"""The precision whose activations are quantized."""
LARGEST: Mapping[int, int] = {8: 127, 4: 7}
"""The largest integer of a weight by its bits; the smallest is its negative."""
FLOAT_BITS = 32
"""The bits of a weight that stays float."""
LOWEST, HIGHEST, STEPS = -128, 127, 255
"""Of the integers of an activation."""
SMALLEST_BOUND = 1e-9
"""A magnitude or a range that is smaller counts as this one."""
FIXED: Mapping[str, tuple[float, float]] = {
    "softmax": (0.0, 255 / 256),
    "sigmoid": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
"""The ranges that the operators themselves fix."""
NARROWEST = 0.5
"""The least share of its full scale that a learned scale of weights may have."""
MOMENTUM = 0.99
"""What an observed range keeps of itself in a step of training (Jacob et al. 2018, section 3.1)."""
CLIPPED = tuple(1 - i / 40 for i in range(21))
"""What `clipped_scale` tries: shares of the scale that loses no weight."""


@dataclass(frozen=True)
class Grid:
    """How the artifact will store a model.

    Attributes:
        precision: As in `edgeferry_converter.recipe.Recipe.quantize`: ``int8``, ``weight-only``, ``dynamic``,
            ``weight-only-int4`` or ``dynamic-int4``.
        weight_bits: 8 or 4, symmetric, a scale per output channel: [-127, 127] or [-7, 7].
        activations: Whether activations are quantized too, to [-128, 127] with a zero point.
        learned: Whether ranges of activations are trained along (else observed).
        bits: By name of a weight, bits other than `weight_bits`; `FLOAT_BITS` keeps it float.
    """

    precision: str = "int8"
    weight_bits: int = 8
    activations: bool = True
    learned: bool = False
    bits: Mapping[str, int] = field(default_factory=dict)

    def bits_of(self, weight: str) -> int:
        """Return the bits of a weight: 8, 4 or `FLOAT_BITS`."""
        return self.bits.get(weight, self.weight_bits)


@dataclass(frozen=True)
class Moments:
    """What a float activation looked like over the samples of `Ranges`, whatever its layout: it is known again by it.

    Attributes:
        low: Smallest value.
        high: Largest value.
        mean: Of all values.
        square: Mean of their squares.
        count: How many values a sample has.
    """

    low: float
    high: float
    mean: float
    square: float
    count: int


@dataclass(frozen=True)
class Ranges:
    """What training settled for activations.

    Attributes:
        samples: What the network was fed to take the moments, by input name, of [samples, ...].
        ranges: By layer, the lowest and highest value that its output can hold.
        moments: By layer, the float output of the settled network over the samples.
    """

    samples: Mapping[str, Array] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)


def weight_scale(values: Array, outputs: Sequence[int], bits: int = 8) -> Array:
    """Return the scale of each output channel: what its largest magnitude is 127 (or 7) times of.

    Args:
        values: A kernel, float32.
        outputs: The axes of output channels.
        bits: 8 or 4.

    Returns:
        float32 of as many axes as `values`, those that are not in `outputs` of size one.
    """
    others = tuple(axis for axis in range(values.ndim) if axis not in outputs)
    peak = np.abs(values).max(axis=others, keepdims=True).astype(np.float32)
    scale: Array = np.maximum(peak, np.float32(SMALLEST_BOUND)) / np.float32(LARGEST[bits])
    return scale


def clipped_scale(values: Array, outputs: Sequence[int], bits: int = 4) -> Array:
    """Return the scale of each output channel with the least squared error, at most that of `weight_scale`.

    Weights beyond the largest integer are clipped to it, so that each channel still holds it.

    Args:
        values: A kernel, float32.
        outputs: The axes of output channels.
        bits: 8 or 4.
    """
    others = tuple(axis for axis in range(values.ndim) if axis not in outputs)
    full, largest = weight_scale(values, outputs, bits), LARGEST[bits]
    found, least = full, np.full(full.shape, np.inf)
    for share in CLIPPED:
        scale = (full * np.float32(share)).astype(np.float32)
        ratio = values / scale
        error = (share * (np.clip(np.rint(ratio), -largest, largest) - ratio)) ** 2
        mean = error.mean(axis=others, keepdims=True)
        found, least = np.where(mean < least, scale, found), np.minimum(mean, least)
    return found


def on_grid(values: Array, outputs: Sequence[int], bits: int = 8, scale: Array | None = None) -> tuple[Array, Array]:
    """Return the nearest integers of a kernel, and the scale of each output channel.

    Args:
        values: A kernel, float32.
        outputs: The axes of output channels.
        bits: 8 or 4.
        scale: As `weight_scale` gives it, or smaller; None is that of `weight_scale`. Each is at least a half of it.

    Returns:
        int8 of the kernel's shape in [-127, 127] (or [-7, 7]), and the scale, float32. A channel that holds nothing
        larger than `SMALLEST_BOUND` is zero: formats disagree on so small a scale.
    """
    full, largest = weight_scale(values, outputs, bits), LARGEST[bits]
    scale = full if scale is None else np.minimum(scale, full).astype(np.float32)
    others = tuple(axis for axis in range(values.ndim) if axis not in outputs)
    empty = np.abs(values).max(axis=others, keepdims=True) <= SMALLEST_BOUND
    found = np.clip(np.rint(values / scale), -largest, largest)
    return np.where(empty, 0, found).astype(np.int8), scale


def snap(values: Array, outputs: Sequence[int], bits: int = 8, scale: Array | None = None) -> Array:
    """Return a kernel on its grid: float32, whose integers by its largest magnitudes are those of `on_grid`.

    Args:
        values: A kernel, float32.
        outputs: The axes of output channels.
        bits: 8 or 4.
        scale: As in `on_grid`.
    """
    found, step = on_grid(values, outputs, bits, scale)
    most = np.finfo(np.float32).max
    return np.clip(found.astype(np.float64) * step, -most, most).astype(np.float32)


def activation_scale(low: float, high: float) -> tuple[np.float32, int]:
    """Return the scale of an activation, and the integer that stands for zero.

    Args:
        low: Its smallest value; above zero it counts as zero.
        high: Its largest; below zero it counts as zero.
    """
    bottom, top = np.minimum(np.float32(low), np.float32(0)), np.maximum(np.float32(high), np.float32(0))
    scale = np.maximum(top - bottom, np.float32(SMALLEST_BOUND)) / np.float32(STEPS)
    return scale, int(np.rint(np.float32(LOWEST) - bottom / scale))


def fake(values: Array, low: float, high: float) -> Array:
    """Return an activation as its integers say it: rounded to a step and clipped to the range; float32."""
    scale, zero = activation_scale(low, high)
    found = np.clip(np.rint(values / scale + np.float32(zero)), LOWEST, HIGHEST)
    return ((found - np.float32(zero)) * scale).astype(np.float32)


def moments(values: Array) -> Moments:
    """Describe a float activation over samples.

    Args:
        values: Of [samples, ...], in any layout.
    """
    wide = np.asarray(values, np.float64)
    low, high, mean, square = (float(value) for value in (wide.min(), wide.max(), wide.mean(), (wide**2).mean()))
    return Moments(low, high, mean, square, int(wide[0].size))
