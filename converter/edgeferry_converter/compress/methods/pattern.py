"""Pruning in a fixed pattern: of each M consecutive input channels at most N keep their weight (N:M sparsity)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeferry_converter.compress.methods import Context, Work
from edgeferry_converter.compress.methods.choosing import check_texts, choose, tell
from edgeferry_converter.compress.methods.masking import Masking, Masks, magnitudes, within
from edgeferry_converter.compress.methods.schedule import CONSTANT, check_schedule, schedule
from edgeferry_converter.compress.network import Network, Weight
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class PrunePattern:
    """Options of ``prune-pattern``: N:M sparsity by magnitude.

    Sources: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4, at once, then training as before);
    Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch".

    Attributes:
        pattern: ``N:M``, N below M: of each M consecutive weights along the input channels the N largest stay.
        schedule: ``constant`` prunes at once at `start`; ``polynomial`` goes from M - 1 to N weights, one by one.
        start: Where it begins, as a share of all optimizer steps.
        end: Where the polynomial schedule reaches N.
        layers: Patterns of the only layers to prune (``*`` stands for any text); empty means all.
        skip: Patterns of layers to leave alone.
    """

    pattern: str = "2:4"
    schedule: str = CONSTANT
    start: float = 0.0
    end: float = 0.6
    layers: Sequence[str] = ()
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        _ = self.numbers
        check_schedule(self.schedule, self.start, self.end, None)
        for key in ("layers", "skip"):
            object.__setattr__(self, key, check_texts(key, getattr(self, key)))

    @property
    def numbers(self) -> tuple[int, int]:
        """N and M."""
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", self.pattern) if isinstance(self.pattern, str) else None
        n, m = (int(one) for one in found.groups()) if found else (0, 0)
        if not 0 < n < m:
            raise UsageError("pattern", f"{self.pattern!r} is no N:M with 0 < N < M", 'write it as "2:4"')
        return n, m

    def begin(self, network: Network, context: Context) -> Work:
        """Find the kernels whose depth the pattern divides, and prune what is due before the first step.

        Raises:
            UsageError: If a pattern of names matches nothing, no layer fits, or with ``--strict`` one does not.
        """
        choice = choose(network, self.layers, self.skip)
        n, m = self.numbers
        unfit = {w.layer: reason for w in choice.weights if (reason := _unfit(network, w, m))}
        kept = {**choice.kept, **unfit}
        tell(network, context, kept)
        weights = {w.name: w for w in choice.weights if w.layer not in unfit}
        if not weights:
            raise UsageError(network.name, f"has no layer whose depth is a multiple of {m}", "choose a smaller pattern")
        when = schedule(self.schedule, (self.start, self.end), None, context.course.steps)
        wanted = sum(np.prod(w.shape) // m * (m - n) for w in weights.values())
        facts = {"pattern": self.pattern, "kept": kept}
        names = {name: weight.layer for name, weight in weights.items()}
        axes = {name: depth_axis(network, weight) for name, weight in weights.items()}
        return Masking(network, facts, when, _Groups(axes, n, m), int(wanted), names).start()


@dataclass(frozen=True)
class _Groups:
    """Gives the masks of a level: how many of each group stay falls from M to N."""

    axes: dict[str, int]
    n: int
    m: int

    def __call__(self, network: Network, held: Masks, level: float) -> Masks:
        count = self.m - round((self.m - self.n) * level)
        sizes = {name: magnitudes(network, held, name) for name in self.axes}
        return within(held, {name: largest(sizes[name], axis, count, self.m) for name, axis in self.axes.items()})


def largest(sizes: Array, axis: int, n: int, m: int) -> Array:
    """Return a mask of the `n` largest of each `m` consecutive values along an axis; of equal ones the first."""
    moved = np.moveaxis(sizes, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], -1, m)
    order = np.argsort(-groups, axis=-1, kind="stable")[..., :n]
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return np.moveaxis(mask.reshape(moved.shape), -1, axis)


def depth_axis(network: Network, weight: Weight) -> int:
    """Return the axis of a kernel's input channels: Keras has it last of what is summed over, PyTorch first."""
    return weight.inputs[-1] if network.framework == "keras" else weight.inputs[0]


def _unfit(network: Network, weight: Weight, m: int) -> str:
    """Return why a kernel cannot have the pattern; empty where it can."""
    if weight.kind == "depthwise":
        return "a depthwise kernel sums over no channels"
    depth = weight.shape[depth_axis(network, weight)]
    return f"its depth of {depth} is no multiple of {m}" if depth % m else ""
