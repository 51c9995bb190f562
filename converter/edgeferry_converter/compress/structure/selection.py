"""Which units go: the least important ones, in blocks, until the model is as small as was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise

import numpy as np

from edgeferry_converter.compress.structure.graph import CHANNEL, HEAD
from edgeferry_converter.compress.structure.ledger import Ledger
from edgeferry_converter.compress.structure.units import Pool, Units
from edgeferry_runtime.errors import TrainingError, UnknownNameError
from edgeferry_runtime.tensors import Array

MACS, PARAMETERS, CHANNELS, AMOUNTS = "macs", "parameters", "channels", "amounts"
TARGETS = {
    MACS: "the multiply-accumulates",
    PARAMETERS: "the parameters",
    CHANNELS: "the channels that may go",
}
"""What a share can be asked of, in words."""
GLOBAL, UNIFORM = "global", "uniform"
SCOPES = (GLOBAL, UNIFORM)
BLOCK = 16
"""What remaining numbers of channels are a multiple of where nothing else is said and the layer is large enough."""
SLACK = 1e-9


@dataclass(frozen=True)
class Wish:
    """How small the model shall be, and what may not be touched.

    Attributes:
        target: One of `TARGETS`, or `AMOUNTS`.
        share: What of it remains, 0 to 1.
        amounts: For `AMOUNTS`: by pattern of layers, the share of channels that goes; the last that matches holds.
        scope: `GLOBAL` compares units of all layers; `UNIFORM` takes the same share of every layer.
        least: The share of its channels that stays in every layer, never less than one channel.
        multiple_of: What the remaining number of channels of a layer is a multiple of; None chooses, see `step`.
        layers: Patterns of layers that may become smaller.
        skip: Patterns of layers that may not.
        kinds: Kinds of units that may go.
    """

    target: str
    share: float = 1.0
    amounts: Mapping[str, float] = field(default_factory=dict)
    scope: str = GLOBAL
    least: float = 0.1
    multiple_of: int | None = None
    layers: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (CHANNEL, HEAD)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        removed: The units that go.
        kept: By layer, why nothing of it may go.
    """

    removed: frozenset[int]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class Queue:
    """A pool whose units go in this order, block by block.

    Attributes:
        pool: Whose.
        blocks: The units of each block.
        worth: Of each block, the mean importance; it rises.
    """

    pool: Pool
    blocks: tuple[tuple[int, ...], ...]
    worth: tuple[float, ...]

    def nearest(self, share: float) -> int:
        """Return how many blocks are this share of the pool, as nearly as may be."""
        wanted, sizes = share * len(self.pool.units), np.cumsum([0, *map(len, self.blocks)])
        return int(np.argmin(np.abs(sizes - wanted)))

    def units(self, count: int) -> list[int]:
        """Return the units of the first blocks."""
        return [unit for block in self.blocks[:count] for unit in block]


def choose(units: Units, importance: Array, wish: Wish, model: str) -> Choice:
    """Choose the units to remove.

    Globally, blocks go in the order of their worth until the target holds. Uniformly, the smallest share of every
    layer goes that reaches it. Then blocks that turn out not to be needed come back, the most important ones first.

    Args:
        units: Of the model.
        importance: Of each unit, as `ranking.rank` gives it.
        wish: What is asked for.
        model: What errors call it.

    Raises:
        UnknownNameError: If a pattern matches no layer.
        TrainingError: If the target cannot be reached; says how far it gets and what holds it up.
    """
    alone = _left_alone(units, wish)

    def reason(pool: Pool, name: str) -> str:
        return _reason(pool, name, alone, importance, wish)

    free = [pool for pool in units.pools if not reason(pool, pool.layers[0])]
    kept, queues = _kept(units, free, reason), [_queue(pool, importance, wish) for pool in free]
    kept |= {name: _small(queue.pool, wish) for queue in queues if not queue.blocks for name in queue.pool.layers}
    if wish.target == AMOUNTS:
        amounts = [_amount(queue.pool, wish) for queue in queues]
        taken = [
            unit for queue, share in zip(queues, amounts, strict=True) for unit in queue.units(queue.nearest(share))
        ]
        return Choice(frozenset(taken), kept)
    ledger = _ledger(units, queues, wish)
    everything = [unit for queue in queues for block in queue.blocks for unit in block]
    ledger.remove(everything)
    if ledger.share > wish.share + SLACK:
        raise _unreachable(model, wish, ledger, kept)
    ledger.put_back(everything)
    narrow = _greedy if wish.scope == GLOBAL else _uniform
    return Choice(narrow(queues, ledger, wish.share), kept)


def step(pool: Pool, wish: Wish) -> int:
    """Return how many units go at a time.

    Kernels compute channels in blocks of 8 (NEON) to 16 and more (AVX), and the remainder costs as much as a whole
    block. Where nothing was said, the number of channels that remain is a multiple of `BLOCK`, in small layers of a
    power of two that is at most half of them.
    """
    if pool.kind == HEAD:
        return 1
    multiple = wish.multiple_of or BLOCK
    while not wish.multiple_of and multiple > 1 and multiple > len(pool.units) * pool.times / 2:
        multiple //= 2
    return multiple // math.gcd(multiple, pool.times)


def _queue(pool: Pool, importance: Array, wish: Wish) -> Queue:
    """Sort a pool's units and cut them into blocks; the first brings the number that remains onto a multiple."""
    order = sorted(pool.units, key=lambda unit: (importance[unit], unit))
    size, least = step(pool, wish), max(1, math.ceil(wish.least * len(order) - SLACK))
    bounds = [0] if len(order) % size == 0 else [0, len(order) % size]
    while len(order) - bounds[-1] - size >= least:
        bounds.append(bounds[-1] + size)
    bounds = [bound for bound in bounds if len(order) - bound >= least]
    blocks = tuple(tuple(order[a:b]) for a, b in pairwise(bounds))
    return Queue(pool, blocks, tuple(float(np.mean(importance[list(block)])) for block in blocks))


def _greedy(queues: Sequence[Queue], ledger: Ledger, target: float) -> frozenset[int]:
    """Remove blocks in the order of their worth."""
    order = sorted((worth, place, at) for place, queue in enumerate(queues) for at, worth in enumerate(queue.worth))
    counts = [0] * len(queues)
    for _, place, at in order:
        if ledger.share <= target + SLACK:
            break
        ledger.remove(queues[place].blocks[at])
        counts[place] = at + 1
    return _without_needless(queues, counts, ledger, target)


def _uniform(queues: Sequence[Queue], ledger: Ledger, target: float) -> frozenset[int]:
    """Find by bisection the smallest share that is enough."""

    def taken(share: float) -> frozenset[int]:
        return _taken(queues, [queue.nearest(share) for queue in queues])

    def enough(share: float) -> bool:
        units = taken(share)
        ledger.remove(units)
        reached = ledger.share <= target + SLACK
        ledger.put_back(units)
        return reached

    low, high = 0.0, 1.0
    if enough(low):
        return frozenset()
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    ledger.remove(taken(high))
    return _without_needless(queues, [queue.nearest(high) for queue in queues], ledger, target)


def _without_needless(queues: Sequence[Queue], counts: Sequence[int], ledger: Ledger, target: float) -> frozenset[int]:
    """Put back the last block of each queue that the target does not need, the most important first, again and again.

    Args:
        queues: All of them.
        counts: How many blocks of each are gone.
        ledger: As it stands without those.
        target: The share that may be left.
    """
    counts, tried = list(counts), set[int]()
    while open_ := [place for place, count in enumerate(counts) if count and place not in tried]:
        place = max(open_, key=lambda place: queues[place].worth[counts[place] - 1])
        block = queues[place].blocks[counts[place] - 1]
        ledger.put_back(block)
        if ledger.share <= target + SLACK:
            counts[place] -= 1
        else:
            ledger.remove(block)
            tried.add(place)
    return _taken(queues, counts)


def _taken(queues: Sequence[Queue], counts: Sequence[int]) -> frozenset[int]:
    """Return the units of the first blocks of every queue."""
    return frozenset(unit for queue, count in zip(queues, counts, strict=True) for unit in queue.units(count))


def _ledger(units: Units, queues: Iterable[Queue], wish: Wish) -> Ledger:
    ledgers: dict[str, Callable[[], Ledger]] = {
        MACS: units.macs,
        PARAMETERS: units.parameters,
        CHANNELS: lambda: units.channels(queue.pool for queue in queues),
    }
    return ledgers[wish.target]()


def _kept(units: Units, free: Iterable[Pool], reason: Callable[[Pool, str], str]) -> dict[str, str]:
    """Return by layer of which nothing may go why that is so."""
    partly = {name for pool in free for name in pool.layers}
    found: dict[str, str] = {}
    for pool in units.pools:
        for name in pool.layers:
            if name not in partly:
                found.setdefault(name, reason(pool, name))
    return found


def _reason(pool: Pool, name: str, alone: Mapping[str, str], importance: Array, wish: Wish) -> str:
    """Return why a pool must stay, as it looks from one of its layers; empty where it may go."""
    if pool.frozen:
        return pool.frozen
    if pool.kind not in wish.kinds:
        return f"its {pool.kind} were not asked for"
    if np.isnan(importance[list(pool.units)]).any():
        return "the criterion says nothing of it: no batch normalization follows, or no gradient comes to it"
    blamed = name if name in alone else next((other for other in pool.layers if other in alone), None)
    if blamed is None or blamed == name:
        return alone.get(name, "")
    return f"its channels are one with those of {blamed!r}, which stays ({alone[blamed]})"


def _left_alone(units: Units, wish: Wish) -> dict[str, str]:
    """Return by layer that the wish leaves it alone."""
    names = tuple(units.layers)
    for pattern in (*(p for p in wish.layers if p != "*"), *wish.skip, *wish.amounts):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("layer", pattern, names)
    found = {name: "skip names it" for name in names if _any(name, wish.skip)}
    found |= {name: "layers does not name it" for name in names if not _any(name, wish.layers)}
    if wish.target == AMOUNTS:
        found |= {name: "amounts does not name it" for name in names if not _any(name, wish.amounts)}
    return found


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _amount(pool: Pool, wish: Wish) -> float:
    """Return the smallest share that is asked of any of the pool's layers."""
    asked = [[share for pattern, share in wish.amounts.items() if fnmatchcase(name, pattern)] for name in pool.layers]
    return min(shares[-1] for shares in asked)


def _small(pool: Pool, wish: Wish) -> str:
    return f"it has {len(pool.units)} {pool.kind}, of which {step(pool, wish)} would go at a time"


def _unreachable(model: str, wish: Wish, ledger: Ledger, kept: Mapping[str, str]) -> TrainingError:
    what = TARGETS[wish.target]
    parts = [f"{name!r} has {part:.0%} of that" + _why(name, kept) for name, part in ledger.largest(3)]
    reason = f"{wish.target} = {wish.share:g} cannot be reached: {ledger.share:.3g} of {what} remain when all has gone"
    reason += " that may; " + ", ".join(parts)
    return TrainingError(model, reason, "ask for less, lower least or multiple_of, or skip fewer layers")


def _why(name: str, kept: Mapping[str, str]) -> str:
    """Return why a layer, or the layer of a stored value, is as large as it is."""
    layer = next((key for key in kept if name == key or name.startswith(f"{key}/") or name.startswith(f"{key}.")), None)
    return f" ({kept[layer]})" if layer else ""
