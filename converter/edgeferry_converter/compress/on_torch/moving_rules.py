"""What moves data: it is run on the numbers of channels themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeferry_converter.compress.on_torch.numbering import collapse, spread, varying
from edgeferry_converter.compress.on_torch.tracer import Tracer, arguments, operator, shape_of


def view(tracer: Tracer, node: Any) -> None:
    """Give the numbers another shape."""
    numbers = tracer.of(node.args[0])
    tracer.values[node] = None if numbers is None else numbers.reshape(shape_of(node))


def move(tracer: Tracer, node: Any) -> None:
    """Run the operator on the numbers."""
    numbers = tracer.of(node.args[0])
    if numbers is None:
        tracer.values[node] = None
    elif operator(node).startswith("expand"):
        tracer.values[node] = numbers.expand(shape_of(node))
    else:
        tracer.values[node] = node.target(numbers, *node.args[1:], **node.kwargs)


def index(tracer: Tracer, node: Any) -> None:
    """Take some of the elements; where that takes some of the channels, all must stay."""
    numbers = tracer.of(node.args[0])
    if numbers is None:
        tracer.values[node] = None
        return
    others = [tracer.known(given) for given in node.all_input_nodes[1:]]
    if any(other is None for other in others):
        tracer.freeze(numbers, f"what {operator(node)} takes of its channels is computed")
        tracer.values[node] = None
        return
    known = dict(zip(node.all_input_nodes[1:], others, strict=True))
    args, kwargs = _with(node.args[1:], known), _with(node.kwargs, known)
    taken = node.target(numbers, *args, **kwargs)
    tracer.values[node] = taken
    name = operator(node)
    whole = lambda: _same_channels(tracer.roots(numbers), tracer.roots(taken), name)  # noqa: E731
    tracer.check(numbers, whole, f"{name} takes some of its channels")


def _with(arguments_: Any, known: Any) -> Any:
    import torch

    return torch.fx.node.map_arg(arguments_, lambda node: known[node])


def _same_channels(before: Any, after: Any, name: str) -> bool:
    """Tell whether an operator left the axes of channels alone."""
    if name == "index":
        return np.array_equal(np.unique(collapse(before).numpy()), np.unique(collapse(after).numpy()))
    small, left = collapse(before), collapse(after)
    return small.shape == left.shape and bool((small == left).all())


def select(tracer: Tracer, node: Any) -> None:
    """Take one element of an axis: what is taken must stay like what is left, if both are channels."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is None:
        tracer.values[node] = None
        return
    if given["dim"] % numbers.ndim in varying(numbers):
        tracer.cuts.append(("select", list(numbers.unbind(given["dim"]))))
    tracer.values[node] = numbers.select(given["dim"], given["index"])


def cut(tracer: Tracer, node: Any) -> None:
    """Cut a tensor into parts, which must stay alike if it is the channels that are cut."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is None:
        tracer.values[node] = None
        return
    parts = list(node.target(numbers, *node.args[1:], **node.kwargs))
    if given["dim"] % numbers.ndim in varying(numbers):
        tracer.cuts.append((operator(node), parts))
    tracer.values[node] = parts


def gate(tracer: Tracer, node: Any) -> None:
    """The first half times the sigmoid of the second (GLU): their channels are one, pair by pair."""
    numbers, given = tracer.of(node.args[0]), arguments(node)
    if numbers is None:
        tracer.values[node] = None
        return
    parts = list(numbers.chunk(2, given["dim"]))
    if given["dim"] % numbers.ndim in varying(numbers):
        tracer.cuts.append(("glu", parts))
        first, second = (part.contiguous().flatten().numpy() for part in map(collapse, parts))
        tracer.graph.unite(first, second)
    tracer.values[node] = parts[0]


def concatenate(tracer: Tracer, node: Any) -> None:
    """Put tensors one behind the other: channels follow each other, or are one where another axis grows."""
    import torch

    given = list(node.args[0])
    dim = arguments(node)["dim"] % len(shape_of(node))
    numbers = [tracer.of(one) for one in given]
    if all(found is None for found in numbers):
        tracer.values[node] = None
        return
    if any(found is not None and dim in varying(found) for found in numbers) or _flat(numbers, dim):
        parts = [_numbered(tracer, one, dim) for one in given]
        tracer.values[node] = torch.cat(parts, dim)
    else:
        _join(tracer, node, numbers, dim)


def _flat(numbers: list[Any], dim: int) -> bool:
    """Tell whether no tensor has channels along any axis but this one: each is a single channel."""
    return all(found is None or not [axis for axis in varying(found) if axis != dim] for found in numbers)


def _numbered(tracer: Tracer, node: Any, axis: int) -> Any:
    numbers = tracer.of(node)
    if numbers is not None:
        return numbers
    shape = shape_of(node)
    return spread(tracer.fixed(shape[axis], tracer.why_fixed(node)), axis, shape)


def _join(tracer: Tracer, node: Any, numbers: list[Any], dim: int) -> None:
    """Make channels one that lie behind each other, such as a class token's and those of other tokens."""
    lines = [found.narrow(dim, 0, 1) for found in numbers if found is not None]
    for line in lines[1:]:
        first, other = (part.contiguous().flatten().numpy() for part in (collapse(lines[0]), collapse(line)))
        tracer.graph.unite(first, other)
    if len(lines) < len(numbers):
        tracer.freeze(lines[0], f"{operator(node)} meets a value of fixed size")
    tracer.values[node] = lines[0].expand(shape_of(node))


def stack(tracer: Tracer, node: Any) -> None:
    """Put tensors beside each other along a new axis."""
    import torch

    numbers = [tracer.of(one) for one in node.args[0]]
    if any(found is None for found in numbers):
        for found in numbers:
            tracer.freeze(found, f"{operator(node)} meets a value of fixed size")
        tracer.values[node] = None
    else:
        tracer.values[node] = torch.stack(numbers, arguments(node)["dim"])


def pad(tracer: Tracer, node: Any) -> None:
    """Make axes longer; channels that are added so have a number in the code, and must stay."""
    import torch

    numbers, shape = tracer.of(node.args[0]), shape_of(node)
    if numbers is None:
        tracer.values[node] = None
        return
    pairs = list(node.args[1])
    for place in range(0, len(pairs), 2):
        axis = numbers.ndim - 1 - place // 2
        if axis in varying(numbers):
            ends = [_filling(tracer, numbers, axis, count) for count in pairs[place : place + 2]]
            numbers = torch.cat([ends[0], numbers, ends[1]], axis)
        else:
            sizes = [-1] * numbers.ndim
            sizes[axis] = shape[axis]
            numbers = numbers.narrow(axis, 0, 1).expand(sizes)
    tracer.values[node] = numbers


def _filling(tracer: Tracer, numbers: Any, axis: int, count: int) -> Any:
    shape = list(numbers.shape)
    shape[axis] = max(0, count)
    if count < 0:
        tracer.freeze(numbers, "pad cuts its channels")
    return spread(tracer.fixed(max(0, count), "it is padding"), axis, shape)


def resample(tracer: Tracer, node: Any) -> None:
    """Change the sizes of space, such as pooling does."""
    numbers, value = tracer.of(node.args[0]), node.meta["val"]
    several = isinstance(value, tuple | list)
    shape = tuple(value[0].shape if several else value.shape)
    found = None
    if numbers is not None:
        space = [axis for axis in range(numbers.ndim) if axis > numbers.ndim - 1 - _space(node, numbers.ndim)]
        if set(space) & set(varying(numbers)):
            tracer.freeze(numbers, f"{operator(node)} runs over its channels")
        for axis in space:
            numbers = numbers.narrow(axis, 0, 1)
        found = numbers.expand(shape)
    tracer.values[node] = [found, None] if several else found


def _space(node: Any, dimensions: int) -> int:
    """Return how many axes of space an operator has, by the digit in its name."""
    digits = [int(letter) for letter in operator(node) if letter.isdigit()]
    return min(digits[-1] if digits else dimensions - 2, dimensions - 1)
