"""The units of a model that can be removed: classes of united channels, and which layers each is part of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeferry_converter.compress.structure.graph import CHANNEL, MODEL_INPUT, MODEL_OUTPUT, ChannelGraph
from edgeferry_converter.compress.structure.ledger import Ledger
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Pool:
    """Units that are alike: they belong to the same layers, as often in each.

    Attributes:
        layers: Those that make them.
        kind: `CHANNEL` or `HEAD`.
        units: Their numbers.
        times: How many channels of a layer one unit is, at the most.
        frozen: Why they must all stay; empty where they may go.
    """

    layers: tuple[str, ...]
    kind: str
    units: tuple[int, ...]
    times: int = 1
    frozen: str = ""


@dataclass(frozen=True)
class Units:
    """Every class of a traced model, numbered from 0.

    Attributes:
        graph: What was traced.
        sizes: How many values each stored value has, by name, of those that count as parameters.
    """

    graph: ChannelGraph
    sizes: Mapping[str, int]

    @cached_property
    def numbers(self) -> dict[int, int]:
        """By class of the graph, the unit's number; only classes that a layer makes are units."""
        made = [self.graph.roots(ids) for ids in self.graph.layers.values()]
        return {int(root): i for i, root in enumerate(np.unique(np.concatenate(made)))} if made else {}

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, ids: Array) -> Array:
        """Return the unit of each channel; -1 for what no layer makes."""
        return np.array([self.numbers.get(int(root), -1) for root in self.graph.roots(ids)], dtype=np.int64)

    @cached_property
    def layers(self) -> dict[str, Array]:
        """By layer, the unit of each of its channels."""
        return {name: self.of(ids) for name, ids in self.graph.layers.items()}

    @cached_property
    def reasons(self) -> dict[int, str]:
        """By unit, why it must stay; that it is at the model's border goes before any other reason."""
        found: dict[int, str] = {}
        for number, reason in self.graph.frozen.items():
            unit = self.numbers.get(self.graph.root(number))
            if unit is not None and (unit not in found or reason in (MODEL_INPUT, MODEL_OUTPUT)):
                found[unit] = reason
        return found

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """All units, those that are alike together, in the order of the layers."""
        where: dict[int, list[tuple[str, int]]] = {}
        for name, units in self.layers.items():
            for unit, times in zip(*np.unique(units, return_counts=True), strict=True):
                where.setdefault(int(unit), []).append((name, int(times)))
        alike: dict[tuple[tuple[tuple[str, int], ...], str], list[int]] = {}
        for unit, layers in where.items():
            alike.setdefault((tuple(layers), self.reasons.get(unit, "")), []).append(unit)
        return tuple(self._pool(layers, reason, members) for (layers, reason), members in alike.items())

    def _pool(self, layers: tuple[tuple[str, int], ...], reason: str, members: list[int]) -> Pool:
        names = tuple(name for name, _ in layers)
        kinds = [self.graph.kinds.get(name, CHANNEL) for name in names]
        return Pool(names, kinds[0], tuple(members), max(times for _, times in layers), reason)

    def macs(self) -> Ledger:
        """Return the multiply-accumulates of one sample."""
        ledger = Ledger(len(self))
        for cost in self.graph.costs:
            ledger.add(cost.layer, cost.macs, [self.of(ids) for ids in (cost.inputs, cost.outputs) if ids is not None])
        return ledger

    def parameters(self) -> Ledger:
        """Return how many values are stored."""
        ledger = Ledger(len(self))
        axes: dict[str, list[Array]] = {name: [] for name in self.sizes}
        for use in self.graph.uses:
            if use.parameter in axes:
                axes[use.parameter].append(self.of(use.ids))
        for name, size in self.sizes.items():
            ledger.add(name, size, axes[name])
        return ledger

    def channels(self, pools: Iterable[Pool]) -> Ledger:
        """Return how many units there are in some pools."""
        ledger = Ledger(len(self))
        for pool in pools:
            ledger.add(pool.layers[0], len(pool.units), [np.array(pool.units)])
        return ledger


def cut(units: Units, state: Mapping[str, Array], removed: frozenset[int]) -> dict[str, Array]:
    """Return the stored values without what belongs to removed units.

    Args:
        units: Of the model.
        state: Every stored value, as `Network.state` names them.
        removed: Numbers of units.
    """
    return units.graph.without(state, [root for root, number in units.numbers.items() if number in removed])
