"""How a teacher is asked about a student's samples: which input is which, in which layout, and which output counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_converter.compress.network import Arrays, Feeds
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, TensorSpec

MOVES: Mapping[str, Callable[[Array], Array]] = {
    "channels first": lambda values: np.moveaxis(values, -1, 1),
    "channels last": lambda values: np.moveaxis(values, 1, -1),
}
LAYOUT = "let teacher and student take data of one shape"


@dataclass(frozen=True)
class Wire:
    """How one input of the teacher is made of one of the student's.

    Attributes:
        spec: The teacher's input.
        student: The name of the student's.
        layout: The key of `MOVES` that is applied; empty where only axes of one come or go, or nothing does.
    """

    spec: TensorSpec
    student: str
    layout: str = ""

    def carry(self, values: Array) -> Array:
        """Return the student's data of [batch, ...] as the teacher takes it."""
        moved = MOVES[self.layout](values) if self.layout else values
        if not _fits(self.spec, moved):
            moved = moved.reshape(len(moved), *self.spec.shape[1:])
        return moved if self.spec.quantization else moved.astype(self.spec.dtype, copy=False)


def wires(teacher: str, inputs: Sequence[TensorSpec], data: Feeds) -> tuple[Wire, ...]:
    """Find the student's data for every input of the teacher: by name, or the only one for an only one.

    Where the shapes say that one takes its channels first and the other last, they are moved.

    Args:
        teacher: What errors call it.
        inputs: The teacher's.
        data: At least one sample, by the student's input names.

    Raises:
        DataError: If an input has no partner, or its shape or dtype does not fit.
    """
    found = []
    for spec in inputs:
        name = next(iter(data)) if len(data) == len(inputs) == 1 else spec.name
        if name not in data:
            reason = f"takes {spec}, and the student takes {', '.join(data)}"
            raise DataError(teacher, reason, "let their inputs have the same names")
        found.append(_wire(teacher, spec, name, data[name]))
    return tuple(found)


def notes(teacher: str, found: Sequence[Wire], data: Feeds) -> tuple[str, ...]:
    """Say whose data are not handed to the teacher as they are."""
    changed = [wire for wire in found if not _fits(wire.spec, data[wire.student])]
    how = {wire.student: f"with its {wire.layout}" if wire.layout else f"as {wire.spec}" for wire in changed}
    return tuple(f"the teacher {teacher} is given {name!r} {words}" for name, words in how.items())


def _wire(teacher: str, spec: TensorSpec, name: str, values: Array) -> Wire:
    if spec.quantization is None and not np.can_cast(values.dtype, spec.dtype, "same_kind"):
        reason = f"takes {spec}, and the samples of {name!r} are {values.dtype}"
        raise DataError(teacher, reason, "give a teacher that takes the same data")
    if _fits(spec, values):
        return Wire(spec, name)
    layouts = [key for key, move in MOVES.items() if values.ndim > 2 and _fits(spec, move(values))]
    shape = "x".join(map(str, values.shape[1:]))
    if len(layouts) > 1:
        reason = f"takes {spec}, and samples of {name!r}, [{shape}], could have their channels first or last"
        raise DataError(teacher, reason, LAYOUT)
    if not layouts and _plain(values.shape[1:]) != _plain(spec.shape[1:]):
        raise DataError(teacher, f"takes {spec}, and a sample of {name!r} is [{shape}]", LAYOUT)
    return Wire(spec, name, layouts[0] if layouts else "")


def _fits(spec: TensorSpec, values: Array) -> bool:
    """Tell whether samples have the shape of an input, whatever its batch."""
    return spec.accepts((spec.shape[0], *values.shape[1:])) if spec.shape else False


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def output_of(teacher: str, answers: Arrays, wanted: str, values: int) -> str:
    """Choose the teacher's output that teaches the student's: by name, or the only one of as many values a sample.

    Args:
        teacher: What errors call it.
        answers: What the teacher gave, of [batch, ...].
        wanted: The student's output.
        values: How many it has a sample.

    Raises:
        DataError: If there is none, or there are several.
    """
    sizes = {name: math.prod(array.shape[1:]) for name, array in answers.items()}
    said = ", ".join(f"{name} of {size}" for name, size in sizes.items())
    fitting = [name for name, size in sizes.items() if size == values]
    if not fitting or sizes.get(wanted, values) != values:
        reason = f"gives {said} values a sample, and the student's {wanted!r} has {values}"
        raise DataError(teacher, reason, "give a teacher of the same classes")
    if wanted not in fitting and len(fitting) > 1:
        reason = f"gives {said} values a sample, of which several could be {wanted!r}"
        raise DataError(teacher, reason, "let the outputs have the same name")
    return wanted if wanted in fitting else fitting[0]
