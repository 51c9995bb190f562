"""Two axes at right angles."""

from __future__ import annotations

import numpy as np

from edgeferry_devices.report.plane import Plane, thinned
from edgeferry_devices.report.scales import Scale

PLANE = Plane(Scale(0, 10), Scale(0, 100), width=200, height=100, left=20, right=30, top=10, bottom=15)


def test_the_axes_begin_in_the_lower_left_corner() -> None:
    assert PLANE.at(0, 0) == (20, 85)
    assert PLANE.at(10, 100) == (170, 10)
    assert PLANE.path([(0, 0), (5, 50), (10, 100)]) == "M20 85 L95 47.5 L170 10"


def test_numbers_stand_where_their_values_lie() -> None:
    assert {tick.text: tick.at for tick in PLANE.x_ticks} == {"0": 20, "2": 50, "4": 80, "6": 110, "8": 140, "10": 170}
    assert [(tick.text, tick.at) for tick in PLANE.y_ticks][::5] == [("0", 85), ("100", 10)]


def test_thinning_keeps_both_ends_and_the_order() -> None:
    few = thinned(np.arange(1000), 60)
    assert (few[0], few[-1], len(few)) == (0, 999, 60)
    assert (np.diff(few) > 0).all()
    assert thinned(np.arange(7), 60).tolist() == list(range(7))
