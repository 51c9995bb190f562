"""Numbers of channels as tensors: each element of a traced tensor says to which channel it belongs.

What moves data is then traced by running it on the numbers. They are kept with a stride of zero along every axis on
which they are the same, so that a picture costs no more than its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeferry_runtime.tensors import Array


def spread(ids: Array, axis: int, shape: Sequence[int]) -> Any:
    """Return numbers of [shape]: `ids` along one axis, the same along all others."""
    import torch

    sizes = [1] * len(shape)
    sizes[axis] = len(ids)
    return torch.from_numpy(ids).reshape(sizes).expand(*shape)


def collapse(ids: Any) -> Any:
    """Return the numbers with every axis along which they are the same shrunk to one."""
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1:
            first = ids.narrow(axis, 0, 1)
            if ids.stride(axis) == 0 or bool((ids == first).all()):
                ids = first
    return ids


def varying(ids: Any) -> list[int]:
    """Return the axes along which the numbers differ."""
    return [axis for axis, size in enumerate(collapse(ids).shape) if size > 1]


def flat(ids: Any) -> Array:
    """Return every number that occurs, in order."""
    import torch

    numbers: Array = torch.unique(collapse(ids)).numpy()
    return numbers
