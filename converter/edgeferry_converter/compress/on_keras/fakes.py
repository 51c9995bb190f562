"""Layers of Keras that compute in float what the artifact computes in integers.

Rounding passes gradients on as they are (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic
Neurons", section 4), and clipping stops them. The classes are Keras', so this module is imported where they are used,
and never before.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edgeferry_converter.compress import grid


class Rounding(keras.layers.Layer):  # type: ignore[misc]
    """Rounds an activation; its range is observed (a moving average), learned, or fixed.

    A learned range is a factor of what calibration found, so that one learning rate does for all; its gradient is
    that of LSQ+ (Bhalgat et al. 2020, section 3.1), scaled as in LSQ (Esser et al. 2020, section 2.2).
    """

    def __init__(self, learned: bool, fixed: tuple[float, float] | None, **own: Any) -> None:
        super().__init__(dtype="float32", **own)
        self.learned, self.fixed, self.off = learned and fixed is None, fixed, False

    def build(self, shape: Any) -> None:
        """Make the variables of the range, or of the scale."""
        low, high = self.fixed or (0.0, 0.0)
        self.low = self._number("low", low)
        self.high = self._number("high", high)
        self.watching = self._number("watching", 0.0 if self.fixed or self.learned else 1.0)
        if self.learned:
            self.factors = self.add_weight(name="factors", shape=(2,), initializer="ones", trainable=True)
        self.count = int(np.prod([size or 1 for size in shape[1:]]))
        self.built = True

    def _number(self, name: str, value: float) -> Any:
        start = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=start, trainable=False)

    def bounds(self) -> tuple[Any, Any]:
        """Return the lowest and highest value of the range."""
        low, high = self.low.value, self.high.value
        if not self.learned:
            return low, high
        factors = _softened(self.factors.value, 1 / (self.count * grid.HIGHEST) ** 0.5)
        return low * factors[0], high * factors[1]

    def call(self, x: Any, training: bool = False) -> Any:
        """Observe the range in training, and round."""
        if self.off:
            return x
        if training and not self.learned and self.fixed is None:
            self._observe(x)
        return self.rounded(x)

    def _observe(self, x: Any) -> None:
        x = keras.ops.stop_gradient(x)
        for mine, seen in ((self.low, keras.ops.min(x)), (self.high, keras.ops.max(x))):
            mine.assign(mine + (1 - grid.MOMENTUM) * self.watching * (seen - mine))

    def rounded(self, x: Any) -> Any:
        """Round to the steps of the range, as `grid.fake` does."""
        low, high = self.bounds()
        low, high = keras.ops.minimum(low, 0.0), keras.ops.maximum(high, 0.0)
        scale = keras.ops.maximum(high - low, grid.SMALLEST_BOUND) / grid.STEPS
        zero = _round(grid.LOWEST - low / scale)
        found = keras.ops.clip(_round(x / scale + zero), grid.LOWEST, grid.HIGHEST)
        return (found - zero) * scale

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape as it is."""
        return shape


class Again(keras.layers.Layer):  # type: ignore[misc]
    """Rounds to the grid of another layer."""

    def __init__(self, source: Any, **own: Any) -> None:
        super().__init__(dtype="float32", **own)
        self.source = source

    def call(self, x: Any) -> Any:
        """Compute with what is rounded."""
        return x if self.source.off else self.source.rounded(x)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape as it is."""
        return shape


class OnGrid(keras.layers.Layer):  # type: ignore[misc]
    """Calls a layer of weights with its kernel on the grid.

    The scale is that of the largest weight of each channel as it is. With `learned` it is trained along (Esser et
    al. 2020, "Learned Step Size Quantization"), from the one of least error, and never above that.
    """

    def __init__(self, inner: Any, bits: int, outputs: tuple[int, ...], learned: bool, **own: Any) -> None:
        super().__init__(dtype="float32", **own)
        self.inner, self.bits, self.outputs, self.learned = inner, bits, outputs, learned

    def build(self, shape: Any) -> None:
        """Make the variables of the range, or of the scale."""
        kernel = self.inner.kernel
        self.others = tuple(axis for axis in range(len(kernel.shape)) if axis not in self.outputs)
        if self.learned:
            first = grid.clipped_scale(np.array(kernel.numpy()), self.outputs, self.bits)
            start = keras.initializers.Constant(first)
            self.first = self.add_weight(name="scale", shape=first.shape, initializer=start, trainable=False)
            self.share = self.add_weight(name="share", shape=first.shape, initializer="ones", trainable=True)
        self.built = True

    def scale(self, kernel: Any) -> Any:
        """Return the scale of each channel of a kernel."""
        peak = keras.ops.max(keras.ops.abs(kernel), axis=self.others, keepdims=True)
        largest = grid.LARGEST[self.bits]
        full = keras.ops.stop_gradient(keras.ops.maximum(peak, grid.SMALLEST_BOUND) / largest)
        if not self.learned:
            return full
        count = np.prod([kernel.shape[axis] for axis in self.others])
        share = _softened(self.share.value, 1 / (count * largest) ** 0.5)
        return keras.ops.clip(self.first.value * share, full * grid.NARROWEST, full)

    def kernel_on_grid(self, kernel: Any) -> Any:
        """Return a kernel as its integers say it."""
        scale, largest = self.scale(kernel), grid.LARGEST[self.bits]
        return keras.ops.clip(_round(kernel / scale), -largest, largest) * scale

    def call(self, x: Any) -> Any:
        """Compute with what is rounded."""
        variable = self.inner.kernel
        with keras.StatelessScope([(variable, self.kernel_on_grid(variable.value))]):
            return self.inner(x)

    def compute_output_spec(self, x: Any) -> Any:
        """Return what the layer inside gives."""
        return self.inner.compute_output_spec(x)


def _round(x: Any) -> Any:
    return x + keras.ops.stop_gradient(keras.ops.round(x) - x)


def _softened(x: Any, share: float) -> Any:
    """Return the same value, whose gradient is a share of it."""
    return keras.ops.stop_gradient(x) + (x * share - keras.ops.stop_gradient(x * share))
