"""Rounding of weights to integers by what a layer is fed: later weights make up for the errors of earlier ones.

The method is that of Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323. A convolution is a matrix that multiplies patches of its input.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeferry_runtime.tensors import Array

NEAREST, GPTQ = "nearest", "gptq"
ROUNDINGS = (NEAREST, GPTQ)

DAMPING = 0.01
"""What is added to the diagonal of the products, as a part of its mean."""
WAITING = 256
"""How many inputs of a layer wait for the next product."""
BLOCK = 64
"""Weights whose errors reach the rest of the row in one product."""


@dataclass
class Moments:
    """What is kept of all inputs of a layer: nothing that grows with their number.

    Attributes:
        sums: Of each value, float64 of [groups, depth].
        products: Of each pair of values, float64 of [groups, depth, depth].
        rows: How many inputs there were.
        samples: How many samples they are of.
        waiting: Inputs that are in neither yet: fewer than `WAITING`, because one large product is quick.
    """

    sums: Array
    products: Array
    rows: int = 0
    samples: int = 0
    waiting: list[Array] = field(default_factory=list)

    @classmethod
    def empty(cls, groups: int, depth: int) -> Moments:
        """Return those of no input."""
        return cls(np.zeros((groups, depth)), np.zeros((groups, depth, depth)))

    def add(self, rows: Array) -> None:
        """Take the inputs of one sample, float32 of [rows, groups, depth]."""
        self.waiting.append(rows)
        self.samples += 1
        if sum(map(len, self.waiting)) >= WAITING:
            self._flush()

    def _flush(self) -> None:
        if not self.waiting:
            return
        rows = np.ascontiguousarray(np.concatenate(self.waiting).transpose(1, 0, 2))
        self.waiting.clear()
        with np.errstate(over="ignore", invalid="ignore"):
            self.sums += rows.sum(1, dtype=np.float64)
            self.products += rows.transpose(0, 2, 1) @ rows
        self.rows += rows.shape[1]

    @property
    def finite(self) -> bool:
        """Whether there were inputs, and none that is infinite or stands for it, as a mask's do."""
        self._flush()
        return self.rows > 0 and bool(np.isfinite(self.products).all())

    @property
    def mean(self) -> Array:
        """The mean input, float64 of [groups, depth]."""
        self._flush()
        found: Array = self.sums / self.rows
        return found

    def hessian(self, *, centered: bool) -> Array:
        """Return what the square of a layer's error depends on, up to a factor: float64 of [groups, depth, depth].

        Args:
            centered: Whether a bias makes up for the mean error.
        """
        mean = self.mean
        found: Array = self.products / self.rows
        if centered:
            found -= mean[:, :, np.newaxis] * mean[:, np.newaxis, :]
        return found


def round_weights(weights: Array, hessian: Array, limit: int) -> Array:
    """Round weights so that a layer's outputs stay close, which is not where each weight stays close.

    Args:
        weights: In steps of their channel's scale, float64 of [groups, channels, depth].
        hessian: Of the layer's inputs, float64 of [groups, depth, depth].
        limit: The largest integer; the smallest is its negative.

    Returns:
        Whole numbers, float64 of the same shape. No channel has a larger error than by rounding to the nearest.
    """
    nearest = np.clip(np.rint(weights), -limit, limit)
    rounded = _compensated(weights, hessian, limit)
    better = squared_error(weights - rounded, hessian) < squared_error(weights - nearest, hessian)
    return np.where(better[..., np.newaxis], rounded, nearest)


def squared_error(difference: Array, hessian: Array) -> Array:
    """Return the mean square of each channel's error, float64 of [groups, channels]."""
    found: Array = np.einsum("gck,gck->gc", difference @ hessian, difference)
    return found


def _compensated(weights: Array, hessian: Array, limit: int) -> Array:
    """Round from the strongest input to the weakest, and let those that are not rounded yet take over each error."""
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    factor = _inverse_factor(np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None], 2))
    rest = np.take_along_axis(weights, order[:, None], 2)
    errors, depth = np.empty_like(rest), rest.shape[2]
    for begin in range(0, depth, BLOCK):
        end = min(begin + BLOCK, depth)
        for k in range(begin, end):
            whole = np.clip(np.rint(rest[..., k]), -limit, limit)
            errors[..., k] = (rest[..., k] - whole) / factor[:, k, k, np.newaxis]
            rest[..., k] = whole
            rest[..., k + 1 : end] -= errors[..., k, np.newaxis] * factor[:, np.newaxis, k, k + 1 : end]
        rest[..., end:] -= errors[..., begin:end] @ factor[:, begin:end, end:]
    return np.take_along_axis(rest, np.argsort(order, axis=1)[:, None], 2)


def _inverse_factor(hessian: Array) -> Array:
    """Return the upper factor of the damped Hessian's inverse: its product with its transpose, in front, is that."""
    diagonal = np.diagonal(hessian, axis1=1, axis2=2).mean(1)
    damping = np.where(diagonal > 0, DAMPING * diagonal, 1.0)
    damped = hessian + damping[:, np.newaxis, np.newaxis] * np.eye(hessian.shape[1])
    return np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
