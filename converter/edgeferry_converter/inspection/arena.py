"""An estimate of the memory that activations take.

Source: TFLite's ``ArenaPlanner`` and ``SimpleMemoryArena``: tensors that live as long as the model first, then by
size, the largest first; each goes into the smallest gap that is free during its whole life, at multiples of 64 bytes.
Scratch memory of kernels is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeferry_converter.inspection.graph import Graph, Value

ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """A tensor's size in bytes, and the first and last node during which it exists."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Place:
    """Where in the arena a tensor lies during its life."""

    start: int
    life: Life

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.life.size


def estimate(graph: Graph) -> int | None:
    """Return the arena's size in bytes; None where the size of a tensor is unknown."""
    lives = lifetimes(graph)
    return None if lives is None else pack(lives, len(graph.nodes))


def lifetimes(graph: Graph) -> list[Life] | None:
    """Return the life of each tensor that is computed; None where the size of one is unknown.

    Inputs, outputs and variables live as long as the model runs.
    """
    end = len(graph.nodes)
    first = dict.fromkeys((*graph.inputs, *(k for k, v in graph.values.items() if v.variable)), 0)
    last = dict.fromkeys((*first, *graph.outputs), end)
    for at, node in enumerate(graph.nodes):
        for key in (*node.outputs, *node.inputs):
            first.setdefault(key, at)
            last[key] = max(last.get(key, at), at)
    moving = {key: graph.values.get(key) for key in first if key and key not in graph.fixed}
    sizes = {key: _size(value) for key, value in moving.items()}
    if any(size is None for size in sizes.values()):
        return None
    return [Life(size, first[key], last[key]) for key, size in sizes.items() if size]


def _size(value: Value | None) -> int | None:
    return value.bytes if value else None


def pack(lives: list[Life], end: int) -> int:
    """Place every tensor, and return the size that they take together.

    Args:
        lives: The tensors.
        end: The last time there is; what lives from 0 to it is placed first.
    """
    placed: list[Place] = []
    for life in sorted(lives, key=lambda x: (x.first > 0 or x.last < end, -x.size, x.first)):
        placed.append(Place(_gap(life, placed), life))
    return max((place.end for place in placed), default=0)


def _gap(life: Life, placed: list[Place]) -> int:
    """Return the start of the smallest gap that is large enough, else the end of what is in the way."""
    busy = [p for p in placed if p.life.first <= life.last and life.first <= p.life.last]
    best, width, at = -1, 0, 0
    for place in sorted(busy, key=lambda p: p.start):
        gap = place.start - at
        if gap >= life.size and (best < 0 or gap < width):
            best, width = at, gap
        at = max(at, -(-place.end // ALIGNMENT) * ALIGNMENT)
    return best if best >= 0 else at
