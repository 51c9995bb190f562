"""What a model costs while channels go and come back, kept up to date in steps as small as the change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgeferry_runtime.tensors import Array


class Ledger:
    """A sum of costs, each of which falls with the channels that are left on its axes.

    A kernel of [3, 3, 16, 32] stores 3·3·a·b values while a of its 16 inputs and b of its 32 outputs are there; the
    multiply-accumulates of its layer fall likewise.

    Attributes:
        total: The sum as it stands.
        before: The sum with every channel.
    """

    def __init__(self, count: int) -> None:
        self.total = self.before = 0.0
        self._names: list[str] = []
        self._whole: list[float] = []
        self._now: list[float] = []
        self._sizes: list[list[int]] = []
        self._left: list[list[int]] = []
        self._touched: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]

    def add(self, name: str, cost: float, axes: Sequence[Array]) -> None:
        """Add one cost.

        Args:
            name: Whose it is.
            cost: With every channel.
            axes: For each axis, the unit of each index; -1 where it always stays.
        """
        item = len(self._whole)
        self._names.append(name)
        self._whole.append(cost)
        self._now.append(cost)
        self._sizes.append([max(1, len(axis)) for axis in axes])
        self._left.append(list(self._sizes[-1]))
        for place, axis in enumerate(axes):
            for unit, times in zip(*np.unique(axis[axis >= 0], return_counts=True), strict=True):
                self._touched[int(unit)].append((item, place, int(times)))
        self.total += cost
        self.before += cost

    def remove(self, units: Iterable[int]) -> None:
        """Take units away."""
        self._change(units, -1)

    def put_back(self, units: Iterable[int]) -> None:
        """Undo `remove`."""
        self._change(units, 1)

    def largest(self, count: int) -> list[tuple[str, float]]:
        """Return the names whose costs are the highest as it stands, with their part of the total, 0 to 1."""
        sums: dict[str, float] = {}
        for item, name in enumerate(self._names):
            sums[name] = sums.get(name, 0.0) + self._now[item]
        parts = [(name, cost / self.total) for name, cost in sums.items() if cost > 0]
        return sorted(parts, key=lambda part: -part[1])[:count]

    @property
    def share(self) -> float:
        """What is left, 0 to 1."""
        return self.total / self.before if self.before else 1.0

    def _change(self, units: Iterable[int], sign: int) -> None:
        changed: set[int] = set()
        for unit in units:
            for item, place, times in self._touched[unit]:
                self._left[item][place] += sign * times
                changed.add(item)
        for item in changed:
            cost = self._cost(item)
            self.total += cost - self._now[item]
            self._now[item] = cost

    def _cost(self, item: int) -> float:
        cost = self._whole[item]
        for left, size in zip(self._left[item], self._sizes[item], strict=True):
            cost *= left / size
        return cost
