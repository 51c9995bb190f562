"""What products of two tensors do with channels: inside of attention, a head is one unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeferry_converter.compress.on_torch.layer_rules import matrix, multiply
from edgeferry_converter.compress.on_torch.numbering import collapse, flat, varying
from edgeferry_converter.compress.on_torch.tracer import Tracer, arguments, operator, scope, shape_of, volume

MIXED = "a product mixes its channels with each other"


def matmul(tracer: Tracer, node: Any) -> None:
    """A layer where the right side is a stored matrix, else a product of two tensors."""
    left, right = node.args[:2]
    found = matrix(tracer, right)
    if found is not None:
        multiply(tracer, node, left, found)
    elif min(len(shape_of(left)), len(shape_of(right))) < 2:
        for side in (left, right):
            tracer.freeze(tracer.of(side), MIXED)
        tracer.values[node] = None
    else:
        _product(tracer, node, (left, right))


def _product(tracer: Tracer, node: Any, sides: tuple[Any, Any]) -> None:
    a, b = (_leading(tracer.of(side), len(shape_of(node))) for side in sides)
    heads = _heads(tracer, node, [(sides[0], a), (sides[1], b)])
    macs = volume(node) * shape_of(sides[0])[-1]
    if heads is not None:
        tracer.values[node] = heads
        tracer.cost(scope(node), macs, None, flat(heads))
        return
    _contract(tracer, a, b)
    rows = a is not None and a.ndim - 2 in varying(a)
    columns = b is not None and b.ndim - 1 in varying(b)
    if rows and columns:
        tracer.freeze(a, MIXED)
        tracer.freeze(b, MIXED)
    made = a.narrow(-1, 0, 1) if rows else b.narrow(-2, 0, 1) if columns else None
    tracer.values[node] = made.expand(shape_of(node)) if made is not None else None
    tracer.cost(scope(node), macs, None, flat(made) if made is not None else tracer.graph.new(0))


def _leading(numbers: Any, dimensions: int) -> Any:
    """Give numbers as many axes as the product has."""
    return None if numbers is None else numbers.reshape((1,) * (dimensions - numbers.ndim) + tuple(numbers.shape))


def _contract(tracer: Tracer, a: Any, b: Any) -> None:
    """Make channels one over which a product sums."""
    left = a is not None and a.ndim - 1 in varying(a)
    right = b is not None and b.ndim - 2 in varying(b)
    if left and right:
        for x, y in zip(a.unbind(-1), b.unbind(-2), strict=True):
            numbers = np.concatenate([flat(x), flat(y)])
            tracer.graph.unite(numbers[1:], numbers[:-1])
    elif left or right:
        tracer.freeze(a if left else b, "it is multiplied by a value of fixed size")


def _heads(tracer: Tracer, node: Any, sides: list[tuple[Any, Any]]) -> Any:
    """Make all channels one that share an index before the last two axes; None where none is there."""
    leading = [axis for _, numbers in sides if numbers is not None for axis in varying(numbers[..., :1, :1])]
    if not leading:
        return None
    shape = shape_of(node)
    made: Any = None
    for side, numbers in sides:
        small = (1,) * (len(shape) - len(shape_of(side))) + shape_of(side)
        if numbers is None:
            fixed = any(small[axis] > 1 for axis in leading)
        else:
            _one_inside(tracer, numbers)
            fixed = not varying(numbers[..., :1, :1])
            made = numbers[..., :1, :1] if made is None or fixed is False else made
        if fixed:
            for _, other in sides:
                tracer.freeze(other, "it is multiplied by a value of fixed size")
    firsts = [n[..., :1, :1] for _, n in sides if n is not None]
    for other in firsts[1:]:
        if collapse(other).shape == collapse(firsts[0]).shape:
            tracer.graph.unite(collapse(firsts[0]).flatten().numpy(), collapse(other).flatten().numpy())
    tracer.heads.append(flat(made))
    return made.expand(shape)


def _one_inside(tracer: Tracer, numbers: Any) -> None:
    small = collapse(numbers)
    rows = small.reshape(-1, small.shape[-2] * small.shape[-1])
    for row in rows:
        tracer.graph.unite(row[1:].numpy(), row[:-1].numpy())


def attention(tracer: Tracer, node: Any) -> None:
    """Queries, keys and values of [..., heads, tokens, size] in one operator."""
    given = arguments(node)
    sides = [(given[key], tracer.of(given[key])) for key in ("query", "key", "value")]
    if given.get("enable_gqa"):
        for _, numbers in sides:
            tracer.freeze(numbers, "several queries share a key")
    if given["attn_mask"] is not None:
        sides.append((given["attn_mask"], tracer.of(given["attn_mask"])))
    heads = _heads(tracer, node, sides)
    query, keys = shape_of(given["query"]), shape_of(given["key"])
    macs = volume(given["query"]) * keys[-2] + volume(node) * keys[-2]
    if heads is None:
        for _, numbers in sides[:2]:
            tracer.freeze(numbers, f"{operator(node)} divides by the root of {query[-1]}, its number of channels")
        values = sides[2][1]
        tracer.values[node] = None if values is None else values.narrow(-2, 0, 1).expand(shape_of(node))
    else:
        tracer.values[node] = heads
    made = tracer.values[node]
    tracer.cost(scope(node), macs, None, flat(made) if made is not None else tracer.graph.new(0))
