"""Waiting for the machine to cool, under a clock of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeferry_runtime import machine
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.cooling import Cooling, Time, cool


class Board:
    """Cools by a degree a second, in time that passes only while somebody sleeps."""

    def __init__(self, celsius: float, floor: float = 0) -> None:
        self.celsius, self.floor, self.seconds = celsius, floor, 0.0
        self.said: list[str] = []

    def read(self) -> dict[str, float]:
        return {"temperature_c": max(self.floor, self.celsius - self.seconds)}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def cool(self, target: float, limit: float = 600) -> Cooling:
        return cool(self.read, target, limit, self.said.append, Time(lambda: self.seconds, self.sleep))


def test_it_waits_until_the_target_and_tells_so() -> None:
    board = Board(80)
    assert board.cool(55) == Cooling(55, 80, 55, 25)
    assert board.cool(55).mark is None
    assert board.said[0] == "cooling down: 80.0 °C, waiting for 55 °C"
    assert len(board.said) == 3


def test_a_cool_board_waits_for_nothing() -> None:
    board = Board(40)
    assert board.cool(55).waited_s == 0
    assert board.said == []


def test_a_board_that_stays_warm_is_marked() -> None:
    found = Board(80, floor=60).cool(55, limit=30)
    assert found.waited_s == 30
    assert str(found.mark) == "warm: still 60.0 °C after 30s of cooling, and not 55 °C"


def test_without_a_sensor_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cool-to: needs a temperature sensor"):
        cool(lambda: machine.state(tmp_path), 55, 600, print, Time())
