"""What went on while it was measured: warmth, the cores' frequency, throttling, and latency in a sustained run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeferry_devices.report.numbers import decimals, number
from edgeferry_devices.report.plane import Plane, thinned
from edgeferry_devices.report.scales import Scale, scale_of
from edgeferry_devices.sides import Side
from edgeferry_runtime.measurement.sustained import drift_sentence
from edgeferry_runtime.profile import Profile

MOST = 12
"""Sides that are drawn, the warmest first."""
POINTS = 60
LEAST_C, LEAST_PART = 5.0, 0.1
"""Degrees, and of others the part of the middle value, that an axis spans at least: noise must not look like drift."""
WARMTH = "temperature_c"
SENSORS = {WARMTH: "°C", "frequency_mhz": "MHz"}
UNITS = {**SENSORS, "median_ms": "ms, median of a window"}


@dataclass(frozen=True)
class Curve:
    """One quantity over the seconds of a measurement: its axes, a line for each process, and its range in words.

    What never changed has no axes and no lines.
    """

    unit: str
    plane: Plane | None
    paths: tuple[str, ...]
    throttled: tuple[tuple[float, str], ...]
    told: str


@dataclass(frozen=True)
class Card:
    """The curves of one side, its throttling in words, and how latency went in a sustained run."""

    side: Side
    curves: tuple[Curve, ...]
    throttling: str
    drift: str


@dataclass(frozen=True)
class Cards:
    """What is drawn, how many sides with curves are not, and which devices have no sensor that tells."""

    drawn: tuple[Card, ...]
    left: int
    silent: tuple[str, ...]


def sensors(sides: Sequence[Side]) -> Cards:
    """Return a card for each side of which there is a curve, and which devices have no sensor."""
    told = [card for card in map(_card, sorted(sides, key=_hottest)) if card.curves]
    known = {card.side.key.device for card in told if {curve.unit for curve in card.curves} & {*SENSORS.values()}}
    silent = tuple(dict.fromkeys(side.key.device for side in sides if side.key.device not in known))
    return Cards(tuple(told[:MOST]), max(0, len(told) - MOST), silent)


def states(profile: Profile) -> list[tuple[float, Mapping[str, Any]]]:
    """Return the states of a measurement, each with its second: before, while it ran, and after.

    Those of a sustained run are the states of its windows, which tell when that was.
    """
    dated = [(window["at_s"], window["state"]) for window in profile.windows]
    during = dated or [(state["at_s"], state) for state in profile.states_during]
    end = max(sum(profile.samples_ms) / 1e3, max((at for at, _ in during), default=0.0))
    return [(0.0, profile.state_before), *during, (end, profile.state_after)]


def _hottest(side: Side) -> tuple[float, str, str]:
    return -(side.temperature_c or 0.0), side.key.device, side.key.bundle


def _card(side: Side) -> Card:
    curves = tuple(curve for key in UNITS if (curve := _curve(side, key)))
    words = [w for p in side.profiles for _, state in states(p) for w in state.get("throttled", ())]
    asked = any("throttled" in state for p in side.profiles for _, state in states(p))
    said = ", ".join(dict.fromkeys(words)) or ("never throttled" if asked else "the device does not tell")
    return Card(side, curves, said, drift_sentence(side.last.windows) if side.last.windows else "")


def _curve(side: Side, key: str) -> Curve | None:
    """Return the curve of one quantity; None where it was not read twice."""
    series = [points for profile in side.profiles if len(points := _readings(profile, key)) > 1]
    if not series:
        return None
    unit, values = UNITS[key], [value for points in series for _, value in points]
    places = 1 if key == WARMTH else decimals(values)
    first, last, most, least = (number(v, places) for v in (values[0], values[-1], max(values), min(values)))
    if most == least:
        return Curve(unit, None, (), (), f"{first} {unit} throughout")
    plane = Plane(Scale(0.0, max(at for points in series for at, _ in points)), _span(values, key), height=170)
    paths = (plane.path(map(tuple, thinned(np.array(points), POINTS).tolist())) for points in series)
    marks = tuple(_throttled(side, plane)) if key == WARMTH else ()
    return Curve(unit, plane, tuple(paths), marks, f"from {first} to {last} {unit}, between {least} and {most}")


def _readings(profile: Profile, key: str) -> list[tuple[float, float]]:
    """Return what was read of one quantity, each with its second."""
    if key in SENSORS:
        return [(at, float(state[key])) for at, state in states(profile) if key in state]
    return [(window["at_s"], float(window[key])) for window in profile.windows]


def _span(values: Sequence[float], key: str) -> Scale:
    low, high = min(values), max(values)
    middle = (low + high) / 2
    least = LEAST_C if key == WARMTH else LEAST_PART * middle
    if high - low < least:
        low, high = middle - least / 2, middle + least / 2
    return scale_of([low, high], log=False, margin=0.08)


def _throttled(side: Side, plane: Plane) -> Iterator[tuple[float, str]]:
    """Yield where the device said that it was being throttled, and in which words."""
    for profile in side.profiles:
        for at, state in states(profile):
            words = [word for word in state.get("throttled", ()) if "since boot" not in word]
            if words:
                yield plane.across(plane.x.at(at)), f"{at:.3g} s: {', '.join(words)}"
