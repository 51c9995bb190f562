"""What layers of a teacher say of samples, brought to the size of the student's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_converter.compress.network import ATTENTION, Arrays, Feeds, Hint
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Look:
    """One layer of the teacher that the student looks at.

    Attributes:
        hint: The student's layer and what of it shall be alike.
        layer: The teacher's layer.
        space: The sizes of the student's layer between batch and channels.
    """

    hint: Hint
    layer: str
    space: tuple[int, ...]

    def shown(self, features: Arrays) -> Array:
        """Return values of [batch, *space, channels], or a map of mean squares of [batch, *space]; float32."""
        values = features[self.layer]
        if self.hint.kind == ATTENTION:
            return resized(np.square(values).mean(-1, keepdims=True), self.space)[..., 0]
        return resized(values, self.space)


def check_ranks(teacher: str, look: Look, student: Array, features: Array) -> None:
    """Refuse two layers that cannot be compared.

    Args:
        teacher: What errors call it.
        look: The two layers.
        student: Output of the student's, of [batch, ..., channels].
        features: Likewise of the teacher's.

    Raises:
        DataError: If one has more axes than the other, or attention is asked of layers without space.
    """
    layers = f"its layer {look.layer!r} gives [{_shape(features)}] a sample"
    if features.ndim != student.ndim:
        reason = f"{layers}, and the student's {look.hint.layer!r} [{_shape(student)}]"
        raise DataError(teacher, reason, "name layers with as many axes")
    if look.hint.kind == ATTENTION and student.ndim < 3:
        raise DataError(teacher, f"{layers}, which has no places to look at", "name layers before the flattening")


def _shape(values: Array) -> str:
    return "x".join(map(str, values.shape[1:]))


def resized(values: Array, space: Sequence[int]) -> Array:
    """Change the sizes between batch and channels, linearly, averaging where they become smaller.

    Args:
        values: Of [batch, *sizes, channels].
        space: As many sizes.

    Returns:
        Float32 of [batch, *space, channels].
    """
    for axis, size in enumerate(space, 1):
        if values.shape[axis] != size:
            matrix = _interpolation(values.shape[axis], size)
            values = np.moveaxis(np.tensordot(values, matrix, (axis, 1)), -1, axis)
    return np.ascontiguousarray(values, np.float32)


def _interpolation(old: int, new: int) -> Array:
    """Return the matrix of [new, old] that resizes an axis by a triangle filter, pixels' centres being at halves."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(old) - centres[:, None]) / max(1, scale))
    matrix: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix


class OnDemand:
    """What a teacher shows, computed for the samples that are asked for; see `Lessons.taught`.

    Args:
        show: Returns by key what the teacher shows of some samples.
        inputs: All samples.
    """

    def __init__(self, show: Callable[[Feeds], Arrays], inputs: Mapping[str, Array]) -> None:
        self._show, self._inputs = show, inputs
        self._last: tuple[object, Arrays] = (None, {})

    def column(self, key: str) -> Array:
        """Return what is indexed like an array of all samples; the keys of one batch are computed together."""
        column: Array = _Column(self, key)  # type: ignore[assignment]
        return column

    def at(self, indices: Array | slice) -> Arrays:
        """Return what the teacher shows of some samples."""
        if self._last[0] is not indices:
            found = self._show({name: values[indices] for name, values in self._inputs.items()})
            self._last = (indices, found)
        return self._last[1]


@dataclass(frozen=True)
class _Column:
    rows: OnDemand
    key: str

    def __getitem__(self, indices: Array | slice) -> Array:
        return self.rows.at(indices)[self.key]
