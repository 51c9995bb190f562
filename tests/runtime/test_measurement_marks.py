"""Marks: what speaks against a measurement."""

from __future__ import annotations

import numpy as np
import pytest

from edgeferry_runtime.measurement.marks import (
    Mark,
    conditions,
    of_scheduling,
    of_states,
    steadiness,
    verdict,
)
from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.measurement.watch import Scheduling

QUICK = BenchOptions(num_runs=5, warmup_runs=2, min_secs=0)


def test_steady_samples_raise_no_warning() -> None:
    assert steadiness(np.random.default_rng(0).normal(10, 0.1, 200), QUICK) == ()


def test_spread_and_drift_are_said() -> None:
    spread = np.where(np.arange(100) % 10 == 0, 30.0, 10.0)
    assert "unsteady" in steadiness(spread, QUICK)[0]
    drift = np.linspace(10, 14, 100)
    assert "drifting: the last quarter's median is +29%" in steadiness(drift, QUICK)[0]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, None),
        ({"load1": 0.2, "throttled": []}, {"load1": 0.9, "throttled": []}, None),
        ({"throttled": ["throttled since boot"]}, {"throttled": ["throttled since boot"]}, None),
        ({"throttled": []}, {"throttled": ["throttled since boot"]}, "throttled: throttled since the run began"),
        (
            {"throttled": ["under-voltage"]},
            {"throttled": ["under-voltage"]},
            "under-voltage: under-voltage; check the power supply",
        ),
        ({"load1": 3.0}, {}, "busy: load 3.0 on 4 cores"),
        ({"frequency_mhz": 1500.0}, {"frequency_mhz": 600.0}, "slowed: from 1500 to 600 MHz"),
        ({"frequency_mhz": 1500.0}, {"frequency_mhz": 1490.0}, None),
        ({"frequency_mhz": 1500.0}, {}, None),
    ],
)
def test_conditions(before: dict, after: dict, said: str | None) -> None:
    warnings = conditions(before, after, 4)
    assert (said in warnings[0]) if said else warnings == ()


def test_what_came_and_went_while_it_ran_is_said() -> None:
    throttled = ["throttled", "throttled since boot"]
    states = [{"throttled": [], "frequency_mhz": 1500.0}, {"throttled": throttled, "frequency_mhz": 600.0}]
    found = list(of_states([*states, {"throttled": ["throttled since boot"], "frequency_mhz": 1500.0}], 4))
    assert [str(mark) for mark in found] == [
        "throttled: throttled; check cooling and power supply",
        "slowed: from 1500 to 600 MHz",
    ]


def test_power_and_heat_are_told_apart() -> None:
    words = ["under-voltage", "throttled", "under-voltage since boot", "throttled since boot"]
    kinds = [mark.kind for mark in of_states([{"throttled": words}, {"throttled": words}], 4)]
    assert kinds == ["under-voltage", "throttled"]


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (Scheduling(), None),
        (Scheduling(900, 0.1), None),
        (Scheduling(165, 4.8), "its threads waited 4.8 s for a core in 10 s (165 involuntary context switches)"),
        (Scheduling(None, 4.8), "waited 4.8 s for a core in 10 s: other programs"),
        (Scheduling(100, None), None),
        (Scheduling(0, 0.0, 0.1), None),
        (Scheduling(0, 0.0, 1.5), "the hypervisor gave 1.5 s of this machine's cores to others in 10 s"),
        (Scheduling(400, None), "was put off its core 400 times in 10.0 s"),
    ],
)
def test_preemption(counted: Scheduling, said: str | None) -> None:
    found = list(of_scheduling(counted, 10.0))
    assert (found[0].kind == "preempted" and said in found[0].reason) if said else found == []


def test_the_verdict_names_each_kind_once() -> None:
    assert verdict([]) == "nothing speaks against these figures"
    found = [Mark("unsteady", "a"), Mark("busy", "b"), Mark("unsteady", "c")]
    assert verdict(found) == "do not trust these figures: unsteady, busy"
