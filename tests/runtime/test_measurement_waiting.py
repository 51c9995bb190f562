"""Waiting for the machine to cool and to come to rest, under a clock of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeferry_runtime import machine
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.waiting import LOAD, TEMPERATURE, Reading, Time, Wait, wait


class Board:
    """Cools by a degree and is relieved of a tenth a second, in time that passes only while somebody sleeps."""

    def __init__(self, celsius: float, load: float = 0.0, floor: float = 0) -> None:
        self.celsius, self.load, self.floor, self.seconds = celsius, load, floor, 0.0
        self.said: list[str] = []

    def read(self) -> dict[str, float]:
        degrees, load = max(self.floor, self.celsius - self.seconds), max(self.floor, self.load - self.seconds / 10)
        return {"temperature_c": degrees, "load1": load}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def wait(self, limit: float = 600, **targets: float) -> tuple[Wait, ...]:
        wanted = {reading: targets[reading.key] for reading in (TEMPERATURE, LOAD) if reading.key in targets}
        return wait(self.read, wanted, limit, self.said.append, Time(lambda: self.seconds, self.sleep))


def test_it_waits_until_it_is_cool_and_tells_so() -> None:
    board = Board(80)
    (found,) = board.wait(temperature_c=55)
    assert found == Wait(TEMPERATURE, 55, 80, 55, 25)
    assert found.mark is None
    assert found.to_dict() == {"target_c": 55, "start_c": 80, "end_c": 55, "waited_s": 25}
    assert board.said == [f"{degrees} °C, waiting for 55 °C" for degrees in (80, 70, 60)]


def test_it_waits_until_it_is_idle() -> None:
    board = Board(80, load=3.0)
    (found,) = board.wait(load1=2.5)
    assert found.waited_s == 5
    assert found.to_dict() == {"target_load": 2.5, "start_load": 3.0, "end_load": 2.5, "waited_s": 5}
    assert board.said == ["load 3, waiting for load 2.5"]


def test_it_waits_for_both_under_one_limit() -> None:
    board = Board(80, load=3.0)
    cooled, calmed = board.wait(temperature_c=55, load1=2.5)
    assert (cooled.waited_s, calmed.waited_s) == (25, 25)
    assert calmed.end == 0.5
    assert board.said[:2] == [
        "80 °C, waiting for 55 °C; load 3, waiting for load 2.5",
        "70 °C, waiting for 55 °C",
    ]


def test_what_rises_again_is_waited_for_again() -> None:
    states = iter([(60, 1.0), (50, 3.0), (50, 1.0)])
    slept: list[float] = []
    found = wait(
        lambda: dict(zip(("temperature_c", "load1"), next(states), strict=True)),
        {TEMPERATURE: 55, LOAD: 2},
        600,
        lambda text: None,
        Time(lambda: float(len(slept)), slept.append),
    )
    assert [w.end for w in found] == [50, 1.0]
    assert len(slept) == 2


def test_a_cool_and_idle_board_waits_for_nothing() -> None:
    board = Board(40, load=0.5)
    assert [w.waited_s for w in board.wait(temperature_c=55, load1=1)] == [0, 0]
    assert board.said == []
    assert board.wait() == ()


def test_a_board_that_stays_warm_or_busy_is_marked() -> None:
    cooled, calmed = Board(80, load=70.0, floor=60).wait(30, temperature_c=55, load1=1)
    assert (cooled.waited_s, calmed.waited_s) == (30, 30)
    assert str(cooled.mark) == "warm: still 60 °C after 30s of waiting, and not 55 °C"
    assert str(calmed.mark) == "busy: still load 67 after 30s of waiting, and not load 1"


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (
            TEMPERATURE,
            "--cool-to: needs a temperature sensor, and this machine has none that can be read; leave it out",
        ),
        (
            LOAD,
            "--max-load: needs the load of the last minute, and this machine has none that can be read; leave it out",
        ),
    ],
)
def test_without_a_sensor_it_is_refused(tmp_path: Path, reading: Reading, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        wait(lambda: machine.state(tmp_path), {reading: 55}, 600, print, Time())
    assert str(caught.value) == said
