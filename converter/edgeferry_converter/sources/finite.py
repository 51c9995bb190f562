"""Weights that are no numbers: found when a source is opened, and named."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeferry_runtime.errors import ArtifactError
from edgeferry_runtime.tensors import Array


def check_finite(subject: object, weights: Iterable[tuple[str, Array]], *, masks: bool = False) -> None:
    """Refuse a NaN or an infinity among the weights.

    Args:
        subject: What has the weights, for errors.
        weights: Name and values; only those of a float dtype are looked at.
        masks: Whether negative infinity is allowed: constants that mask attention have it.

    Raises:
        ArtifactError: Naming the first such tensor, and how many of its values are none.
    """
    for name, values in weights:
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values)
        if masks:
            bad &= ~np.isneginf(values)
        count = int(np.count_nonzero(bad))
        if count:
            what = "NaN" if np.isnan(values).any() else "infinity"
            reason = f"its weight {name!r} holds {what} ({count} of {values.size} values are no finite numbers)"
            raise ArtifactError(subject, reason, "train it again, or save an earlier state: it cannot answer well")
