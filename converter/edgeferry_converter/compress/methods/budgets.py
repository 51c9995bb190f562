"""How many values each kernel may lose, and how many it shall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgeferry_converter.compress.methods import Context
from edgeferry_converter.compress.methods.choosing import check_patterns
from edgeferry_converter.compress.methods.magnitude import Pool
from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, Network, Weight
from edgeferry_converter.compress.sensitivity import Scan, Sensitivity, judge, scan
from edgeferry_runtime.errors import TrainingError

if TYPE_CHECKING:
    from edgeferry_converter.compress.methods.weights import PruneWeights

Caps = Mapping[str, int]
"""By kernel, the most values that it may lose."""

METRIC_OF = {CROSS_ENTROPY: "top1", BINARY: "auc"}
"""The metric that belongs to a loss; of others ``mse``."""


def caps(weights: Sequence[Weight]) -> dict[str, int]:
    """Return all values but one of each kernel."""
    return {weight.name: size(weight) - 1 for weight in weights}


def within(found: Sensitivity, weights: Sequence[Weight], points: float) -> dict[str, int]:
    """Return what each kernel can lose within some points, by a scan."""
    return {w.name: min(size(w) - 1, math.floor(found.most(w.layer, points) * size(w))) for w in weights}


def sensitivity(network: Network, context: Context) -> Sensitivity:
    """Scan a network by the samples that it is trained on."""
    objective = context.course.objective
    metric = METRIC_OF.get(objective.loss, "mse")
    return scan(network, context.lessons, judge(objective.output, metric), Scan(metric, seed=context.seed))


def pools(options: PruneWeights, network: Network, weights: Sequence[Weight], caps: Caps) -> tuple[Pool, ...]:
    """Share out the values that shall become zero.

    Args:
        options: What is asked for.
        network: Which network, for errors and its size.
        weights: The kernels that are pruned.
        caps: The most that each may lose, but those that ``amounts`` names.

    Raises:
        UnknownNameError: If a pattern of ``amounts`` matches none of the layers.
        TrainingError: If more is asked for than they may lose.
    """
    check_patterns("amounts", options.amounts, [weight.layer for weight in weights])
    amounts = {w.name: _amount(options.amounts, w.layer) for w in weights}
    fixed = [
        Pool({w.name: size(w) - 1}, min(size(w) - 1, share(amount, size(w))))
        for w in weights
        if (amount := amounts[w.name]) is not None
    ]
    every = {weight.name: size(weight) for weight in weights}
    sizes = {name: values for name, values in every.items() if amounts[name] is None}
    total = _total(options, network, sizes, (sum(caps[name] for name in sizes), sum(pool.target for pool in fixed)))
    free = _apart(sizes, caps, total) if options.scope == "layer" else [Pool({n: caps[n] for n in sizes}, total)]
    return tuple(_beginning(pool, every, options.initial) for pool in (*fixed, *free) if pool.caps)


def _total(options: PruneWeights, network: Network, sizes: Mapping[str, int], able: tuple[int, int]) -> int:
    """Return how many values the kernels without an amount of their own shall lose; they may lose `able[0]`.

    The kernels with one lose `able[1]`.
    """
    (most, others), wanted = able, options.wanted
    if wanted is None:
        return most
    whole, others = (network.parameters(), others) if options.of == "model" else (sum(sizes.values()), 0)
    total = max(0, share(wanted, whole) - others)
    if total > most and whole:
        what = "all values of the model" if options.of == "model" else "the pruned kernels"
        reason = f"can reach a sparsity of {(most + others) / whole:.4f} of {what}, and {wanted:g} is asked for"
        raise TrainingError(network.name, reason, "ask for less, skip fewer layers, or allow more sensitivity")
    return total


def _apart(sizes: Mapping[str, int], caps: Caps, total: int) -> list[Pool]:
    """Return a pool for each kernel: all lose the same share, but no more than they may; the others lose more then."""
    open_, targets, left = dict(sizes), {}, total
    while open_:
        part = left / sum(open_.values())
        full = [name for name, values in open_.items() if share(part, values) >= caps[name]]
        if not full:
            break
        for name in full:
            targets[name] = min(caps[name], share(part, open_.pop(name)))
            left = max(0, left - targets[name])
    targets |= {name: share(part, values) for name, values in open_.items()}
    return [Pool({name: caps[name]}, targets[name]) for name in sizes]


def _amount(amounts: Mapping[str, float], layer: str) -> float | None:
    return next((amount for pattern, amount in amounts.items() if fnmatchcase(layer, pattern)), None)


def _beginning(pool: Pool, sizes: Mapping[str, int], initial: float) -> Pool:
    """Return a pool that loses a first share at once."""
    return replace(pool, initial=min(pool.target, share(initial, sum(sizes[name] for name in pool.caps))))


def share(amount: float, values: int) -> int:
    """Return how many of some values are at least a share of them."""
    return math.ceil(amount * values - 1e-6)


def size(weight: Weight) -> int:
    """Return how many values a kernel has."""
    return math.prod(weight.shape)
