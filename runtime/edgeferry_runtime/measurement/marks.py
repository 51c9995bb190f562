"""Marks: what speaks against a measurement, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeferry_runtime.measurement.options import BenchOptions
from edgeferry_runtime.measurement.watch import Scheduling
from edgeferry_runtime.tensors import Array

SPREAD = 1.5
"""The 95th percentile over the median, above which a run is called unsteady."""
DRIFT = 0.1
"""The change of the median from the first to the last quarter, above which a run is said to drift."""
WAITING = 0.02
"""The share of the time that a thread waited for a core, above which a run is called preempted."""
SWITCHES = 20
"""Involuntary context switches a second that mean the same, where the system does not tell the time waited."""
BUSY = 0.6
"""The share of the cores that the load before a run may fill."""
OWN_LOAD = 1.5
"""The load that is always allowed: a measurement before this one leaves nearly one."""
POWER = "under-voltage"

State = Mapping[str, Any]


@dataclass(frozen=True)
class Mark:
    """One thing that speaks against a measurement.

    Attributes:
        kind: ``throttled``, ``under-voltage``, ``slowed``, ``preempted``, ``busy``, ``unsteady``, ``drifting``,
            ``short`` or ``warm``; of a program that is not ours also ``not proven``, ``shared`` or ``unknown``.
        reason: What was seen, with its figures.
    """

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def verdict(marks: Sequence[Mark]) -> str:
    """Say whether figures with these marks can be trusted."""
    kinds = ", ".join(dict.fromkeys(mark.kind for mark in marks))
    return f"do not trust these figures: {kinds}" if kinds else "nothing speaks against these figures"


def of_samples(samples: Array, options: BenchOptions, steady: bool | None = None) -> Iterator[Mark]:
    """Say what in the samples themselves speaks against them.

    Args:
        samples: Milliseconds of each measured run, in order.
        options: How they were measured.
        steady: Whether the warm-up ended steady; None where that was not asked.
    """
    median, p95 = np.percentile(samples, (50, 95))
    yield from of_figures(len(samples), float(median), float(p95), options)
    if steady is False:
        limit = min(options.max_warmup_secs, options.max_secs)
        yield Mark("unsteady", f"{limit:g} s of warming up did not make the runs steady")
    quarter = len(samples) // 4
    if quarter >= 5:
        first, last = np.median(samples[:quarter]), np.median(samples[-quarter:])
        if abs(last / first - 1) > DRIFT:
            yield Mark("drifting", f"the last quarter's median is {last / first - 1:+.0%} off the first's")


def of_figures(runs: int, median: float, p95: float, options: BenchOptions) -> Iterator[Mark]:
    """Say what in the figures of the samples speaks against them.

    Args:
        runs: How many there are.
        median: Of their milliseconds.
        p95: Their 95th percentile.
        options: How they were measured.
    """
    if not options.sustained_secs and runs < options.num_runs:
        yield Mark("short", f"only {runs} of {options.num_runs} runs fitted into {options.max_secs:g} s")
    if median and p95 > SPREAD * median:
        yield Mark("unsteady", f"the 95th percentile is {p95 / median:.1f} times the median")


def of_states(states: Sequence[State], cores: int) -> Iterator[Mark]:
    """Say what in the machine's state speaks against the run.

    Args:
        states: The state before the run, those read while it ran, and the state after it; see `machine.state`.
        cores: How many cores there are.
    """
    words = _throttling(states)
    if power := [word for word in words if word.startswith(POWER)]:
        yield Mark(POWER, f"{', '.join(power)}; check the power supply and its cable")
    if heat := [word for word in words if not word.startswith(POWER)]:
        yield Mark("throttled", f"{', '.join(heat)}; check cooling and power supply")
    load = states[0].get("load1", 0)
    if load > max(OWN_LOAD, BUSY * cores):
        yield Mark("busy", f"load {load:.1f} on {cores} cores before the run")
    speeds = [state["frequency_mhz"] for state in states if "frequency_mhz" in state]
    if speeds and min(speeds) < 0.9 * speeds[0]:
        yield Mark("slowed", f"from {speeds[0]:.0f} to {min(speeds):.0f} MHz")


def _throttling(states: Sequence[State]) -> list[str]:
    """Return what was on at any time, and what has been on since the first state, though nobody saw it."""
    known = [state["throttled"] for state in states if "throttled" in state]
    if not known:
        return []
    now = [word for words in known for word in words if "since boot" not in word]
    since = [word.replace("since boot", "since the run began") for word in known[-1] if word not in known[0]]
    missed = [word for word in since if "since the run began" in word and word.partition(" since")[0] not in now]
    return list(dict.fromkeys([*now, *missed]))


def of_scheduling(counted: Scheduling, seconds: float) -> Iterator[Mark]:
    """Say whether others, or more threads than cores, took the cores away.

    Args:
        counted: What the scheduler counted while the runs were measured.
        seconds: How long that took.
    """
    if counted.stolen_s is not None and counted.stolen_s > WAITING * seconds:
        took = f"the hypervisor gave {counted.stolen_s:.3g} s of this machine's cores to others in {seconds:.3g} s"
        yield Mark("preempted", took)
    switches = "" if counted.involuntary is None else f" ({counted.involuntary} involuntary context switches)"
    others = "other programs, or more threads than cores"
    if counted.waited_s is not None:
        if counted.waited_s > WAITING * seconds:
            took = f"its threads waited {counted.waited_s:.3g} s for a core in {seconds:.3g} s"
            yield Mark("preempted", f"{took}{switches}: {others}")
    elif counted.involuntary is not None and counted.involuntary > max(1.0, SWITCHES * seconds):
        yield Mark("preempted", f"was put off its core {counted.involuntary} times in {seconds:.1f} s: {others}")


def steadiness(samples: Array, options: BenchOptions) -> tuple[str, ...]:
    """Return `of_samples` as text."""
    return tuple(map(str, of_samples(samples, options)))


def conditions(before: State, after: State, cores: int) -> tuple[str, ...]:
    """Return `of_states` as text."""
    return tuple(map(str, of_states((before, after), cores)))
