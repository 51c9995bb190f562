"""What an output says: probabilities or logits, and how often it is right."""

from __future__ import annotations

import numpy as np

from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, Objective
from edgeferry_runtime.tensors import Array

TINY = 1e-7
"""The smallest probability whose logarithm is taken."""
COARSEST = 1 / 64
"""The largest step that a quantized probability is believed to have."""


def are_probabilities(values: Array, loss: str) -> bool:
    """Tell by its values whether an output is a distribution (of a binary classifier: probabilities), and no logits.

    Args:
        values: Of [samples, values].
        loss: One of `network.LOSSES`.
    """
    within = bool((values >= -1e-6).all() and (values <= 1 + 1e-6).all())
    if loss == CROSS_ENTROPY:
        return within and bool((np.abs(values.sum(1) - 1) < 1e-3 + _grain(values) / 2 * values.shape[1]).all())
    return within and loss == BINARY


def as_logits(values: Array, loss: str) -> Array:
    """Return what a softmax (of a binary classifier: a sigmoid) makes these probabilities of, up to a constant.

    The zero of a quantized output stands for anything below half of its smallest step.

    Args:
        values: Of [samples, values].
        loss: One of `network.LOSSES`.
    """
    low = max(TINY, _grain(values) / 2) if (values <= 0).any() else TINY
    sure = np.clip(values, low, 1 - low if loss == BINARY else 1)
    logits: Array = np.log(sure) - (np.log1p(-sure) if loss == BINARY else 0)
    return logits.astype(np.float32)


def _grain(values: Array) -> float:
    """Return the smallest probability that is not zero: of a quantized output its step, by whose half it may be off."""
    return min(COARSEST, float(values.min(initial=COARSEST, where=values > 0)))


def flat(values: Array) -> Array:
    """Return an output of [samples, ...] as float32 of [samples, values]."""
    return values.reshape(len(values), -1).astype(np.float32, copy=False)


def score(objective: Objective, values: Array, probabilities: bool, truth: Array) -> float:
    """Return the percentage of samples that are classified rightly; of other losses the mean squared error."""
    if objective.loss == CROSS_ENTROPY:
        return float(100 * np.mean(values.argmax(1) == truth.reshape(-1)))
    if objective.loss == BINARY:
        return float(100 * np.mean((values > (0.5 if probabilities else 0)) == (truth.reshape(values.shape) > 0.5)))
    return float(np.mean(np.square(values.astype(np.float64) - truth.reshape(values.shape))))
