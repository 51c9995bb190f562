"""The learning rate of every step of the optimizer."""

from __future__ import annotations

import math

from edgeferry_converter.compress.recipe import Train


def learning_rate(train: Train, step: int, steps: int) -> float:
    """Return the rate of one step.

    It rises linearly over ``train.warmup`` of all steps, and then follows the schedule: constant, a half cosine
    (Loshchilov and Hutter 2017, "SGDR", equation 5 without restarts) or a line, both down to zero.

    Args:
        train: What the recipe says.
        step: Counted from 0.
        steps: Of the whole training.
    """
    warm = math.ceil(train.warmup * steps)
    if step < warm:
        return train.rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    fall = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share}
    return train.rate * fall[train.schedule]
