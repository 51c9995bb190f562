"""Curves of sensors."""

from __future__ import annotations

from edgeferry_devices.report.sensors import MOST, sensors, states


def state(celsius: float, megahertz: float = 1800.0, *throttled: str) -> dict[str, object]:
    return {"temperature_c": celsius, "frequency_mhz": megahertz, "throttled": list(throttled)}


def test_a_board_that_warms_up_and_is_throttled(measure, sides) -> None:
    hot = [{"at_s": 1.0, **state(70)}, {"at_s": 2.0, **state(82, 1200, "throttled", "throttled since boot")}]
    measure(state_before=state(50), states_during=tuple(hot), state_after=state(81, 1200, "throttled since boot"))
    (card,) = sensors(sides()).drawn
    warmth, speed = card.curves
    assert (warmth.unit, warmth.told) == ("°C", "from 50.0 to 81.0 °C, between 50.0 and 82.0")
    assert (speed.unit, speed.told) == ("MHz", "from 1,800 to 1,200 MHz, between 1,200 and 1,800")
    assert [words for _, words in warmth.throttled] == ["2 s: throttled"]
    assert speed.throttled == ()
    assert card.throttling == "throttled, throttled since boot"


def test_what_never_changed_is_words_and_no_curve(measure, sides) -> None:
    measure(state_before=state(50), states_during=(), state_after=state(60))
    (card,) = sensors(sides()).drawn
    assert [curve.plane is None for curve in card.curves] == [False, True]
    assert card.curves[1].told == "1,800 MHz throughout"
    assert card.throttling == "never throttled"


def test_windows_of_a_sustained_run_are_readings(measure, sides) -> None:
    windows = tuple({"at_s": 10.0 * i, "state": state(50 + i), "median_ms": 2 + i / 10} for i in range(1, 6))
    undated = tuple(window["state"] for window in windows)
    measure(windows=windows, state_before=state(50), states_during=undated, state_after={})
    assert [at for at, _ in states(sides()[0].last)][:6] == [0, 10, 20, 30, 40, 50]
    (card,) = sensors(sides()).drawn
    assert card.curves[0].told == "from 50.0 to 55.0 °C, between 50.0 and 55.0"
    assert card.curves[-1].told == "from 2.10 to 2.50 ms, median of a window, between 2.10 and 2.50"
    assert card.drift.startswith("over 50s the median rose (2.1 ms first, 2.5 ms last, +19.0%")


def test_a_sustained_run_has_a_curve_where_there_is_no_sensor(measure, sides) -> None:
    windows = tuple({"at_s": 1.0 * i, "state": {}, "median_ms": 1.0 + i} for i in range(1, 4))
    measure(windows=windows, state_before={}, states_during=({},) * 3, state_after={})
    told = sensors(sides())
    assert [curve.unit for curve in told.drawn[0].curves] == ["ms, median of a window"]
    assert told.silent == ("pi",)


def test_each_process_has_a_line(measure, sides) -> None:
    for celsius in (50, 60):
        measure(run="one", state_before=state(celsius), states_during=(), state_after=state(celsius + 5))
    assert len(sensors(sides()).drawn[0].curves[0].paths) == 2


def test_a_flicker_of_the_sensor_is_not_heat(measure, sides) -> None:
    measure(state_before=state(50), states_during=(), state_after=state(50.1))
    plane = sensors(sides()).drawn[0].curves[0].plane
    assert plane
    assert plane.y.high - plane.y.low >= 5


def test_the_warmest_are_drawn_and_the_silent_named(measure, sides) -> None:
    for i in range(MOST + 3):
        measure(f"board-{i:02d}", state_before=state(40 + i), states_during=(), state_after=state(45 + i))
    measure("mute", state_before={"load1": 0.1}, states_during=(), state_after={})
    told = sensors(sides())
    assert [card.side.key.device for card in told.drawn][:2] == [f"board-{MOST + 2:02d}", f"board-{MOST + 1:02d}"]
    assert (len(told.drawn), told.left, told.silent) == (MOST, 3, ("mute",))
