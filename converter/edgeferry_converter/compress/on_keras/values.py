"""Takes values from Keras as NumPy has them, and gives them to layers with what those compute from them once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeferry_runtime.tensors import Array


def array(variable: Any) -> Array:
    """Return a copy of a variable or tensor; bfloat16, which NumPy has not, as float32."""
    values = np.array(variable.numpy())
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def fill(layer: Any, values: Sequence[Array]) -> None:
    """Set the values of a layer, in the order of its ``get_weights()``."""
    layer.set_weights(values)
    refresh(layer)


def refresh(layer: Any) -> None:
    """Compute anew what a layer keeps beside its values: ``Normalization`` the statistics that it adapted to.

    Keras itself does so where it loads a file, but not in ``set_weights`` and ``assign``.
    """
    if type(layer).__name__ == "Normalization":
        layer.finalize_state()
