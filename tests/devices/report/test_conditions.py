"""Conditions, and the curve of each side."""

from __future__ import annotations

import re

import pytest

from edgeferry_devices.report.conditions import POINTS, conditions, ecdf, state_text


def test_the_facts_are_those_of_the_measurement(measure, sides, real) -> None:
    measure(cooling={"waited_s": 12.5, "target_c": 50.0, "note": None}, warnings=("busy: load 7", "short: few"))
    (condition,) = conditions(sides())
    facts = dict(condition.facts)
    assert facts["cores"] == str(real.machine["cores"])
    assert facts["engine"] == f"onnxruntime {real.engine['version']}, cpu"
    assert facts["bundle"] == f"{'ab' * 6}, onnx"
    assert facts["measured"] == f"2026-05-04 12:00 UTC, by edgeferry {real.edgeferry_version}"
    assert facts["runs"] == f"{real.num_runs} in 1 process, after {real.warmup_runs} to warm up"
    assert facts["waited for"] == "waited 12.5 s, target 50 °C"
    assert facts["marks"] == "busy: load 7; short: few"
    assert facts["state before"] == state_text(real.state_before)


def test_several_processes_are_counted(measure, sides, real) -> None:
    for _ in range(3):
        measure(run="one")
    ((_, *_), facts) = sides(), dict(conditions(sides())[0].facts)
    assert facts["runs"] == f"{3 * real.num_runs} in 3 processes, after {3 * real.warmup_runs} to warm up"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "no sensors"),
        ({"temperature_c": 61.26, "governor": "ondemand", "load1": 0.5}, "61.26 °C, ondemand, 0.5 load"),
        ({"throttled": []}, "not throttled"),
        ({"frequency_mhz": 1800.0, "throttled": ["under-voltage", "throttled"]}, "1800 MHz, under-voltage, throttled"),
    ],
)
def test_a_state_is_one_line(state: dict[str, object], text: str) -> None:
    assert state_text(state) == text


def test_the_curve_rises_from_the_first_run_to_nearly_all(measure, sides) -> None:
    measure(samples_ms=tuple(float(i) for i in range(1, 1001)), median_ms=500.5, p95_ms=950.0, p99_ms=990.0)
    curve = ecdf(sides()[0])
    steps = [tuple(map(float, step)) for step in re.findall(r"[ML]([\d.]+) ([\d.]+)", curve.path)]
    assert POINTS - 2 <= len(steps) <= POINTS
    assert steps == sorted(steps, key=lambda step: (step[0], -step[1]))
    lowest, highest = (curve.plane.down(part) for part in (0.0, 1.0))
    assert steps[0][1] == pytest.approx(lowest, abs=0.5)
    assert steps[-1][1] == pytest.approx(highest, abs=3)
    assert [mark.text for mark in curve.marks] == ["p50", "p95", "p99"]
    for mark, part in zip(curve.marks, (0.5, 0.95, 0.99), strict=True):
        nearest = min(steps, key=lambda step: abs(step[0] - mark.at))
        assert nearest[1] == pytest.approx(curve.plane.down(part), abs=6)
