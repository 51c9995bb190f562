"""What changed since the run before."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgeferry_devices.report.changes import APART, changes


def test_slower_ones_come_first_then_faster_ones(measure, found) -> None:
    for device, factor in (("same", 1.0), ("faster", 0.5), ("slower", 1.5), ("much slower", 3.0)):
        measure(device, day=0)
        measure(device, day=1, factor=factor)
    told = changes(found())
    assert [change.row.side.key.device for change in told.rows] == ["much slower", "slower", "faster", "same"]
    assert (told.count("slower"), told.count("faster"), told.count("no difference")) == (2, 1, 1)
    assert [round(change.found.ratio, 2) for change in told.rows] == [3.0, 1.5, 0.5, 1.0]


def test_a_ratio_of_one_lies_in_the_middle_and_its_interval_around_it(measure, found) -> None:
    for device, factor in (("same", 1.0), ("half", 0.5), ("double", 2.0)):
        measure(device, day=0)
        measure(device, day=1, factor=factor)
    by_device = {change.row.side.key.device: change.span for change in changes(found()).rows}
    assert by_device["same"][1] == pytest.approx(0.5)
    assert by_device["half"][1] == pytest.approx(1 - by_device["double"][1])
    for low, point, high in by_device.values():
        assert 0 <= low <= point <= high <= 1


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.3, 2.5, 9.0, 400.0])
def test_the_axis_has_one_in_its_middle_and_no_number_upon_another(measure, found, factor: float) -> None:
    measure(day=0)
    measure(day=1, factor=factor)
    ticks = changes(found()).ticks
    assert (0.5, "1") in [(tick.at, tick.text) for tick in ticks]
    assert len(ticks) >= 3
    assert all(later.at - earlier.at >= APART for earlier, later in pairwise(ticks))


def test_what_speaks_against_either_run_is_named(measure, found) -> None:
    measure(day=0, warnings=("busy: load 7", "busy: load 8", "short: 3 of 9 runs"))
    measure(day=1, warnings=("throttled: hot",))
    (change,) = changes(found()).rows
    assert change.doubts == "before: busy, short; now: throttled"


def test_what_was_measured_once_is_told_apart(measure, found) -> None:
    measure("old", day=0)
    measure("old", day=1)
    measure("new", day=1)
    told = changes(found())
    assert [side.key.device for side in told.once] == ["new"]
    assert [change.row.side.key.device for change in told.rows] == ["old"]
    assert told.alone


def test_several_processes_tell_how_processes_differ(measure, found) -> None:
    for day in (0, 1):
        for factor in (1.0, 1.1):
            measure(day=day, factor=factor)
    assert not changes(found()).alone


def test_another_engine_is_said_to_differ(measure, found, real) -> None:
    measure(day=0)
    measure(day=1, engine={**real.engine, "version": "99.0"})
    (change,) = changes(found()).rows
    assert change.row.differs == (f"engine version: {real.engine['version']} and 99.0",)
