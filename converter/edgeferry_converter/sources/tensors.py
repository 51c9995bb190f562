"""What all sources share about tensors: their shapes, their order, their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeferry_runtime.errors import DataError, UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array, TensorSpec

Shapes = Mapping[str, tuple[int, ...]]


def with_shapes(inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """Narrow the declared inputs to the shapes that the user gave.

    Raises:
        UnknownNameError: If a shape names no input.
        UsageError: If a shape contradicts what the model declares.
    """
    check_shape_names(shapes, [t.name for t in inputs])
    for tensor in inputs:
        given = shapes.get(tensor.name)
        if given is not None and not tensor.accepts(given):
            raise UsageError("--shape", f"{list(given)} does not fit the input {tensor}", "give a shape that does")
    return tuple(replace(t, shape=tuple(shapes.get(t.name, t.shape))) for t in inputs)


def check_shape_names(shapes: Shapes, names: Sequence[str]) -> None:
    """Refuse shapes of inputs that do not exist.

    Raises:
        UnknownNameError: With the valid names.
    """
    for name in shapes:
        if name not in names:
            raise UnknownNameError("--shape", name, names)


def refuse_shapes(format_name: str, shapes: Shapes) -> None:
    """Refuse shapes where the file alone decides.

    Raises:
        UsageError: If any were given.
    """
    if shapes:
        raise UsageError("--shape", f"a source of format {format_name} keeps the shapes of its file", "leave it out")


def pin_batch(shape: Sequence[int], batch: int = 1) -> tuple[int, ...]:
    """Give a dynamic batch, axis 0, a size."""
    return (batch if shape[0] < 0 else shape[0], *shape[1:]) if shape else ()


def in_order(subject: object, inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> list[Array]:
    """Return the fed arrays in the order of the inputs.

    Raises:
        DataError: If the names differ.
    """
    names = [t.name for t in inputs]
    if set(feeds) != set(names):
        raise DataError(subject, f"was fed {sorted(feeds)}", f"feed exactly the inputs {names}")
    return [feeds[name] for name in names]


def unique(names: Sequence[str]) -> list[str]:
    """Make repeated names distinct: the second ``a`` becomes ``a_1``."""
    seen: list[str] = []
    for name in names:
        candidate, n = name, 0
        while candidate in seen:
            n += 1
            candidate = f"{name}_{n}"
        seen.append(candidate)
    return seen
