"""Under which conditions each side was measured, with the distribution of its runs on an axis of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeferry_devices.report.numbers import moment
from edgeferry_devices.report.plane import Plane, thinned
from edgeferry_devices.report.scales import Scale, Tick, scale_of
from edgeferry_devices.sides import Side
from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.quantities import duration, size

POINTS = 60
"""Steps of a curve."""
READINGS = (("temperature_c", "°C"), ("frequency_mhz", "MHz"), ("governor", ""), ("load1", "load"))


@dataclass(frozen=True)
class Ecdf:
    """The part of the runs that took no longer: axes, curve, and its percentiles."""

    plane: Plane
    path: str
    marks: tuple[Tick, ...]


@dataclass(frozen=True)
class Condition:
    """One side: facts as label and value, and its curve."""

    side: Side
    facts: tuple[tuple[str, str], ...]
    ecdf: Ecdf


def conditions(sides: Sequence[Side]) -> list[Condition]:
    """Return the conditions of each side."""
    return [Condition(side, tuple(_facts(side)), ecdf(side)) for side in sides]


def ecdf(side: Side) -> Ecdf:
    """Return the empirical distribution function of a side, from the first run to the 99.5th percentile."""
    ordered = np.sort(side.samples)
    ranks = thinned(np.arange(len(ordered)), POINTS)
    scale = scale_of([float(ordered[0]), side.percentile(99.5)], margin=0.02)
    plane = Plane(scale, Scale(0.0, 100.0), height=200)
    points = [(float(ordered[rank]), 100 * (rank + 1) / len(ordered)) for rank in ranks]
    inside = [point for point in points if point[0] <= scale.high]
    figures = {"p50": side.median_ms, "p95": side.percentile(95), "p99": side.percentile(99)}
    marks = tuple(Tick(plane.across(scale.at(value)), name) for name, value in figures.items())
    return Ecdf(plane, plane.path(inside), marks)


def _facts(side: Side) -> list[tuple[str, str]]:
    last = side.last
    facts = {
        "board": _words(last.machine.get("board"), last.machine.get("arch")),
        "cores": last.machine.get("cores"),
        "memory": size(last.machine.get("memory_bytes")),
        "system": _words(last.machine.get("os"), last.machine.get("kernel")),
        "Python": last.machine.get("python"),
        "engine": _words(f"{last.engine.get('name')} {last.engine.get('version')}", last.engine.get("delegate")),
        "executes": _executes(last.execution),
        "bundle": _words(side.bundle_id[:12], last.artifact.get("format"), last.artifact.get("precision")),
        "artifact": size(side.size_bytes),
        "measured": f"{moment(side.at)} UTC, by {_owner(last)}",
        "runs": _runs(side),
        "latency": _latency(last),
        "memory used": _memory(last),
        "state before": state_text(last.state_before),
        "state after": state_text(last.state_after),
        "scheduler": _quantities(last.scheduling),
        "waited for": ", ".join(filter(None, map(_quantities, (last.cooling, last.calming)))),
        "marks": "; ".join(side.reasons) or "none",
    }
    return [(label, str(value)) for label, value in facts.items() if value not in (None, "")]


def state_text(state: Mapping[str, Any]) -> str:
    """Write what was read of a machine's state in one line."""
    known = [f"{_reading(state[key])} {unit}".strip() for key, unit in READINGS if key in state]
    throttled = [", ".join(state["throttled"]) or "not throttled"] if "throttled" in state else []
    return ", ".join([*known, *throttled]) or "no sensors"


def _quantities(values: Mapping[str, Any]) -> str:
    """Write figures whose names end in their unit, as ``waited_s`` does."""
    units = {"s": " s", "c": " °C"}
    words = []
    for key, value in values.items():
        name, _, ending = key.rpartition("_")
        label, unit = (name, units[ending]) if ending in units else (key, "")
        words += [f"{label.replace('_', ' ')} {_reading(value)}{unit}"] if value is not None else []
    return ", ".join(words)


def _reading(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def _words(*words: Any) -> str:
    return ", ".join(str(word) for word in words if word)


def _owner(profile: Profile) -> str:
    return f"edgeferry {profile.edgeferry_version}" if profile.edgeferry_version else "edgeferry"


def _executes(execution: Mapping[str, Any]) -> str:
    taken, total = execution.get("nodes_delegated"), execution.get("nodes_total")
    nodes = f"{taken} of {total} nodes" if isinstance(taken, int) and isinstance(total, int) else ""
    return _words(execution.get("processor"), nodes)


def _runs(side: Side) -> str:
    count = len(side.profiles)
    warmed = sum(profile.warmup_runs for profile in side.profiles)
    kept = f", of which {len(side.samples)} are kept" if len(side.samples) != side.runs else ""
    windows = side.last.windows
    sustained = f", sustained for {format_duration(windows[-1]['at_s'])}" if windows else ""
    return f"{side.runs} in {count} process{'es' if count > 1 else ''}, after {warmed} to warm up{kept}{sustained}"


def _latency(profile: Profile) -> str:
    return (
        f"mean {duration(profile.mean_ms)}, standard deviation {duration(profile.stddev_ms)}, "
        f"{duration(profile.min_ms)} to {duration(profile.max_ms)}"
    )


def _memory(profile: Profile) -> str:
    return f"{size(profile.rss_bytes)} resident, {size(profile.peak_rss_bytes)} at its peak"
