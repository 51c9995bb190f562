"""When weights are pruned, and how far, in the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeferry_converter.compress.methods import check_number
from edgeferry_runtime.errors import UnknownNameError, UsageError

POLYNOMIAL, CONSTANT = "polynomial", "constant"
SCHEDULES = (POLYNOMIAL, CONSTANT)
UPDATES = 30
"""How often masks are renewed while a polynomial schedule runs, where the recipe does not say."""


@dataclass(frozen=True)
class Schedule:
    """The steps of an optimizer after which weights are pruned.

    Attributes:
        kind: `POLYNOMIAL` or `CONSTANT`.
        begin: The step where it begins; 0 is before the first.
        end: The step where the target is reached.
        every: Steps between two updates.
    """

    kind: str
    begin: int
    end: int
    every: int

    def due(self, step: int) -> bool:
        """Tell whether masks are renewed after a step, counted from 1 (0 is before the first)."""
        if self.kind == CONSTANT:
            return step == self.begin
        return step == self.end or (self.begin <= step < self.end and (step - self.begin) % self.every == 0)

    def level(self, step: int) -> float:
        """Return how much of the way to the target is gone after a step, 0 to 1.

        The polynomial is cubic, fast at first and slow at last (Zhu and Gupta 2017, "To prune, or not to prune",
        equation 1): sparsity = target + (initial - target) * (1 - (step - begin) / (end - begin))^3.
        """
        if step < self.begin:
            return 0.0
        if self.kind == CONSTANT or step >= self.end:
            return 1.0
        return 1 - (1 - (step - self.begin) / (self.end - self.begin)) ** 3


def schedule(kind: str, shares: tuple[float, float], every: int | None, steps: int) -> Schedule:
    """Return the schedule of a training.

    Args:
        kind: `POLYNOMIAL` or `CONSTANT`.
        shares: Where it begins and where it ends, of all steps, 0 to 1.
        every: Steps between two updates; None makes about `UPDATES` of them.
        steps: Of the whole training.
    """
    begin, end = (math.floor(share * steps) for share in shares)
    return Schedule(kind, begin, end, every or max(1, (end - begin) // UPDATES))


def check_schedule(kind: str, begin: float, end: float, every: int | None) -> None:
    """Refuse what is no schedule.

    Raises:
        UnknownNameError: For a kind that there is not.
        UsageError: For shares that are none, or an end before the beginning.
    """
    if kind not in SCHEDULES:
        raise UnknownNameError("schedule", str(kind), SCHEDULES)
    check_number("start", begin, 0, 1)
    check_number("end", end, 0, 1)
    if end < begin:
        raise UsageError("end", f"{end:g} comes before start = {begin:g}", "give shares of all steps, the start first")
    if every is not None:
        check_number("every", every, 1, 1_000_000_000, whole=True)
