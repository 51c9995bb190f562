"""Two axes at right angles, in the units of an SVG's view box."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgeferry_devices.report.scales import Scale, Tick
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Plane:
    """Where things lie in a chart, from its upper left corner.

    Attributes:
        x: The axis from left to right.
        y: The axis from bottom to top.
        width: Of the whole chart.
        height: Of the whole chart.
        left, right, top, bottom: The margins around what is drawn.
    """

    x: Scale
    y: Scale
    width: int = 400
    height: int = 220
    left: int = 48
    right: int = 16
    top: int = 26
    bottom: int = 40

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a value of each axis lies, to the tenth of a unit."""
        return self.across(self.x.at(x)), self.down(self.y.at(y))

    def across(self, part: float) -> float:
        """Return where a part of the x axis lies."""
        return round(self.left + part * (self.width - self.left - self.right), 1)

    def down(self, part: float) -> float:
        """Return where a part of the y axis lies."""
        return round(self.height - self.bottom - part * (self.height - self.top - self.bottom), 1)

    @property
    def x_ticks(self) -> list[Tick]:
        """The numbers below the x axis."""
        return [Tick(self.across(tick.at), tick.text) for tick in self.x.ticks(5)]

    @property
    def y_ticks(self) -> list[Tick]:
        """The numbers beside the y axis."""
        return [Tick(self.down(tick.at), tick.text) for tick in self.y.ticks(5)]

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Return a line through values of both axes as an SVG path."""
        return " ".join(
            f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(self.at(*point) for point in points)
        )


def thinned(values: Array, most: int) -> Array:
    """Return at most so many of the values, evenly chosen, the first and the last among them.

    Args:
        values: Of any dtype, [values].
        most: Two or more.
    """
    chosen: Array = values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]
    return chosen
