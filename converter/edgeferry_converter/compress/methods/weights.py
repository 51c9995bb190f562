"""Pruning of single weights by magnitude: a growing share of each kernel, or of all together, becomes zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeferry_converter.compress.methods import Context, Work, budgets, check_number, magnitude
from edgeferry_converter.compress.methods.choosing import check_texts, choose, tell
from edgeferry_converter.compress.methods.magnitude import Pool
from edgeferry_converter.compress.methods.masking import Masking, Masks, magnitudes, within
from edgeferry_converter.compress.methods.schedule import POLYNOMIAL, check_schedule, schedule
from edgeferry_converter.compress.network import Network
from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.tensors import Array

GLOBAL, LAYER = "global", "layer"
PRUNED, MODEL = "pruned", "model"
DEFAULT = 0.8
MOST = 0.9999
"""The highest sparsity that may be asked for; at least one value of each kernel stays in any case."""


@dataclass(frozen=True)
class PruneWeights:
    """Options of ``prune-weights``: unstructured magnitude pruning (Zhu and Gupta 2017, "To prune, or not to prune").

    Attributes:
        sparsity: The share of zeros to reach, 0 to 1. None is `DEFAULT`, and with `sensitivity` whatever that allows.
        of: What it is a share of: the ``pruned`` kernels without those of `amounts`, or all values that the ``model``
            stores.
        scope: ``global`` takes the smallest values of all kernels together, ``layer`` the same share of each.
        schedule: ``polynomial`` (cubic), or ``constant``: all at once at `start`.
        start: Where the schedule begins, as a share of all optimizer steps.
        end: Where it reaches its target; the rest of the training heals.
        every: Optimizer steps between two updates of the masks; None makes about 30 updates.
        initial: The sparsity at `start`, of the polynomial schedule.
        amounts: Sparsities of single layers, by pattern (``*`` stands for any text); the first that matches holds.
        layers: Patterns of the only layers to prune; empty means all.
        skip: Patterns of layers to leave alone.
        sensitivity: Points of the metric that a layer may lose when it is pruned alone and not trained: no layer is
            pruned further than that, by a scan of the training samples.
    """

    sparsity: float | None = None
    of: str = PRUNED
    scope: str = GLOBAL
    schedule: str = POLYNOMIAL
    start: float = 0.0
    end: float = 0.6
    every: int | None = None
    initial: float = 0.0
    amounts: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[str] = ()
    skip: Sequence[str] = ()
    sensitivity: float | None = None

    def __post_init__(self) -> None:
        for key, valid in {"scope": (GLOBAL, LAYER), "of": (PRUNED, MODEL)}.items():
            if getattr(self, key) not in valid:
                raise UnknownNameError(key, str(getattr(self, key)), valid)
        check_schedule(self.schedule, self.start, self.end, self.every)
        for key in ("layers", "skip"):
            object.__setattr__(self, key, check_texts(key, getattr(self, key)))
        if not isinstance(self.amounts, Mapping):
            raise UsageError("amounts", f"{self.amounts!r} is no table", 'write it as { "conv*" = 0.9 }')
        for pattern, amount in self.amounts.items():
            check_number(f"amounts: {pattern}", amount, 0, MOST)
        check_number("initial", self.initial, 0, MOST)
        for key, high in {"sparsity": MOST, "sensitivity": math.inf}.items():
            if getattr(self, key) is not None:
                check_number(key, getattr(self, key), 0, high)

    @property
    def wanted(self) -> float | None:
        """The sparsity to reach; None is as far as the sensitivity allows."""
        return DEFAULT if self.sparsity is None and self.sensitivity is None else self.sparsity

    def begin(self, network: Network, context: Context) -> Work:
        """Plan how many values each kernel loses, and prune what is due before the first step.

        Raises:
            UsageError: If a pattern matches nothing, or with ``--strict`` a layer cannot be pruned.
            TrainingError: If the sparsity cannot be reached; says how far it gets.
        """
        choice = choose(network, self.layers, self.skip)
        tell(network, context, choice.kept)
        facts: dict[str, object] = {"kept": dict(choice.kept)}
        caps = budgets.caps(choice.weights)
        if self.sensitivity is not None:
            found = budgets.sensitivity(network, context)
            caps = budgets.within(found, choice.weights, self.sensitivity)
            facts["sensitivity"] = found.to_dict(self.sensitivity)
        pools = budgets.pools(self, network, choice.weights, caps)
        when = schedule(self.schedule, (self.start, self.end), self.every, context.course.steps)
        names = {weight.name: weight.layer for weight in choice.weights}
        return Masking(network, facts, when, _Smallest(pools), sum(pool.target for pool in pools), names).start()


@dataclass(frozen=True)
class _Smallest:
    """Gives the masks of every pool at a level."""

    pools: tuple[Pool, ...]

    def __call__(self, network: Network, held: Masks, level: float) -> Masks:
        found: dict[str, Array] = {}
        for pool in self.pools:
            sizes = {name: magnitudes(network, held, name) for name in pool.caps}
            found |= magnitude.masks(pool, sizes, pool.count(level))
        return within(held, found)
