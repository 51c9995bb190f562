"""How much each unit matters to the model, by one of four criteria."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgeferry_converter.compress.structure.graph import Use
from edgeferry_converter.compress.structure.units import Units
from edgeferry_runtime.tensors import Array

L1, L2, BATCH_NORM, TAYLOR = "l1", "l2", "batch-norm", "taylor"
CRITERIA = (L1, L2, BATCH_NORM, TAYLOR)
OUTPUT, SCALE = "output", "scale"


def rank(
    units: Units, criterion: str, state: Mapping[str, Array], gradients: Sequence[Mapping[str, Array]] = ()
) -> Array:
    """Return the importance of each unit: of [units], float64; NaN where the criterion says nothing of it.

    What makes a unit are slices of kernels, often of several. Each gives a score:

    - ``l1``, ``l2``: the norm of the slice (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1).
    - ``batch-norm``: the absolute factor of its normalization (Liu et al. 2017, "Network Slimming", section 3).
    - ``taylor``: the square of the sum of weight times gradient over the slice, the mean over batches
      (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8).

    The scores of one kernel are divided by their mean, so that layers can be compared; Fang et al. 2023 ("DepGraph")
    do so in their reference implementation. Dividing by the L2 norm (Molchanov et al. 2017, "Pruning Convolutional
    Neural Networks for Resource Efficient Inference", section 2.2) takes wide layers away first. A unit's importance
    is the mean over all that makes it. Of a kernel that gets no gradient, such as that of an output that is not
    trained, ``taylor`` says nothing.

    Args:
        units: Of the model.
        criterion: One of `CRITERIA`.
        state: Every stored value.
        gradients: For ``taylor``: of each batch, the gradient of each value that `makers` names.
    """
    total, count = np.zeros(len(units)), np.zeros(len(units))
    for use in makers(units, criterion):
        slopes = [one[use.parameter] for one in gradients]
        if criterion == TAYLOR and not any(slope.any() for slope in slopes):
            continue
        scores = _scores(use, criterion, state[use.parameter], slopes)
        scores = scores / max(float(np.mean(scores)), np.finfo(np.float64).tiny)
        numbers = units.of(use.ids)
        there = numbers >= 0
        np.add.at(total, numbers[there], scores[there])
        np.add.at(count, numbers[there], 1)
    importance: Array = np.divide(total, count, out=np.full(len(units), np.nan), where=count > 0)
    return importance


def makers(units: Units, criterion: str) -> tuple[Use, ...]:
    """Return the uses that a criterion looks at."""
    role = SCALE if criterion == BATCH_NORM else OUTPUT
    return tuple(use for use in units.graph.uses if use.role == role)


def _scores(use: Use, criterion: str, values: Array, gradients: Iterable[Array]) -> Array:
    others = tuple(axis for axis in range(values.ndim) if axis != use.axis)
    values = values.astype(np.float64)
    if criterion == TAYLOR:
        return np.asarray(np.mean([np.square(np.sum(values * g, axis=others)) for g in gradients], axis=0))
    if criterion == L2:
        return np.asarray(np.sqrt(np.sum(np.square(values), axis=others)))
    return np.asarray(np.sum(np.abs(values), axis=others))
