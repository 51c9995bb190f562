"""Masks that grow while a network is trained, and what keeps the zeros of one step through the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeferry_converter.compress.methods.schedule import Schedule
from edgeferry_converter.compress.network import Arrays, Network
from edgeferry_runtime.errors import TrainingError
from edgeferry_runtime.tensors import Array

LEAST_ZEROS = 0.01
"""The share of exact zeros from which on a kernel counts as pruned; what was only trained has next to none."""
_MASK = "mask:"

Masks = Mapping[str, Array]


def zeros_of(network: Network) -> dict[str, Array]:
    """Return a mask of every kernel that was pruned before: False where it is exactly zero.

    A kernel that is zero throughout was set so and not pruned, such as the last one of a residual branch; it is free.
    """
    masks = {weight.name: network.read(weight.name) != 0 for weight in network.weights()}
    return {name: mask for name, mask in masks.items() if LEAST_ZEROS <= 1 - mask.mean() < 1}


def keep_zeros(network: Network) -> dict[str, Array]:
    """Hold the zeros of a former step while a network is trained again; return the masks.

    Every step that follows a pruning needs it, whatever it does: an optimizer would fill the zeros at once. It holds
    for a network that was made of another one too (folded, simulated, resized).
    """
    masks = zeros_of(network)
    network.mask(masks)
    return masks


def magnitudes(network: Network, held: Masks, name: str) -> Array:
    """Return the size of each value of a kernel; -1 where it is masked already, so that it goes first."""
    sizes: Array = np.abs(network.read(name))
    return np.where(held[name], sizes, -1) if name in held else sizes


def within(held: Masks, masks: Masks) -> dict[str, Array]:
    """Return masks that also hold what was held before."""
    return {name: mask & held[name] if name in held else mask for name, mask in masks.items()}


@dataclass
class Masking:
    """A step that prunes by masks; see `edgeferry_converter.compress.methods.Work`.

    Attributes:
        network: What is pruned.
        facts: What the history says; `finish` adds ``sparsity`` (of the pruned kernels), ``layers`` (of each).
        schedule: When and how far.
        masks_at: Gives the masks of a level from 0 to 1, from the network and the masks that hold; what is masked
            stays masked.
        wanted: The fewest zeros that must come out of the pruned kernels.
        names: The pruned kernels, with their layers.
    """

    network: Network
    facts: dict[str, Any]
    schedule: Schedule
    masks_at: Callable[[Network, Masks, float], Masks]
    wanted: int
    names: Mapping[str, str]
    _held: dict[str, Array] = field(default_factory=dict)
    _level: float = 0.0

    def start(self) -> Masking:
        """Hold the zeros that are there, and prune what is due before the first step."""
        self._held = keep_zeros(self.network)
        self.after_step(0)
        return self

    def after_step(self, step: int) -> None:
        """Renew the masks when it is due."""
        if self.schedule.due(step):
            self._prune(self.schedule.level(step))

    def state(self) -> Arrays:
        """Return the masks and the level."""
        return {"level": np.array(self._level), **{_MASK + name: mask for name, mask in self._held.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold the masks again."""
        self._level = float(state["level"])
        self._held = {key.removeprefix(_MASK): np.asarray(m, bool) for key, m in state.items() if key.startswith(_MASK)}
        self.network.mask(self._held)

    def finish(self) -> Network:
        """Prune to the target where the training was too short for the schedule, and tell what came out.

        Raises:
            TrainingError: If it was not reached.
        """
        if self._level < 1:
            self._prune(1.0)
        zeros = {name: self.network.read(name) == 0 for name in self.names}
        counts = {name: int(z.sum()) for name, z in zeros.items()}
        count, size = sum(counts.values()), sum(z.size for z in zeros.values())
        if count < self.wanted:
            reason = f"reaches a sparsity of {count / size:.4f} where {self.wanted / size:.4f} was asked for"
            raise TrainingError(self.network.name, reason, "ask for less")
        self.facts |= {"sparsity": count / size, "zeros": count, "values": size}
        self.facts["layers"] = {layer: counts[name] / zeros[name].size for name, layer in self.names.items()}
        return self.network

    def _prune(self, level: float) -> None:
        self._held |= self.masks_at(self.network, self._held, level)
        self._level = level
        self.network.mask(self._held)
