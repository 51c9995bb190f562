"""Budgets: limits that measurements must keep, written ``p50=15ms,size=4MB,drop=0.5``.

| key | limits | units |
|---|---|---|
| ``p5``, ``p50`` (or ``median``), ``p90``, ``p95``, ``p99``, ``mean``, ``max`` | latency, at most | us, ms, s |
| ``first``, ``init`` | the first inference, loading; at most | us, ms, s |
| ``size`` | the artifact, at most | B, kB, MB, GB, KiB, MiB, GiB |
| ``peak``, ``rss`` | memory at its highest, and after the last run; at most | the same |
| ``drop`` | accuracy lost in conversion, at most | points of percent |
| ``accuracy`` | of the artifact, at least | percent |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgeferry_runtime.errors import GateError, UnknownNameError, UsageError
from edgeferry_runtime.measurement.compare import has_samples
from edgeferry_runtime.measurement.statistics import side_interval
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.quantities import BYTES
from edgeferry_runtime.tensors import Array

TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
PERCENT = {"%": 1.0}
POINTS = {"points": 1.0, **PERCENT}
ALIASES = {"median": "p50"}
UNKNOWN = "the device does not tell it"
UNMEASURED = "the bundle tells no accuracy; make it with: ferry convert --evaluate LABELLED.npz"
NAMED = 3
"""Limits that an error names at most; all of them have a line of their own."""

_LIMIT = re.compile(r"\s*(\w+)\s*=\s*(\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*(\D*?)\s*", re.ASCII)


Processes = Sequence[Profile]
"""What was measured of one artifact on one device, with one delegate."""


@dataclass(frozen=True)
class Figure:
    """Something that can be limited.

    Attributes:
        units: By name, how many milliseconds, bytes or points it is.
        read: Takes it from the processes of one measurement; None where they do not tell.
        default: The unit that may be left out; empty where none may be.
        least: Whether a limit is the lowest that passes, and not the highest.
        missing: What is said where it is unknown.
    """

    units: Mapping[str, float]
    read: Callable[[Processes], float | None]
    default: str = ""
    least: bool = False
    missing: str = UNKNOWN


def _samples(processes: Processes) -> list[Array]:
    return [np.array(profile.samples_ms, np.float64) for profile in processes]


def _of_runs(name: str, statistic: Callable[[Array], Any], processes: Processes) -> float | None:
    """Return a figure of all runs: what a profile says itself, or the same of several, if they hold their runs."""
    if len(processes) == 1 or not has_samples(processes):
        return _number(getattr(processes[0], name)) if len(processes) == 1 else None
    return float(statistic(np.concatenate(_samples(processes))))


def _median(processes: Processes) -> float:
    return _middle("median_ms", processes)


def _middle(name: str, processes: Processes) -> float:
    return float(np.median([getattr(profile, name) for profile in processes]))


def _memory(name: str, processes: Processes) -> float | None:
    found = [_number(getattr(profile, name)) for profile in processes]
    return None if None in found else max(value for value in found if value is not None)


def _size(processes: Processes) -> float | None:
    return _number(processes[0].artifact.get("size_bytes"))


def _accuracy(key: str, processes: Processes) -> float | None:
    """Read a figure of the accuracy; a drop that is told as None is one from nothing, without end."""
    found = processes[0].artifact.get("accuracy")
    if not isinstance(found, Mapping) or key not in found:
        return None
    if key != "drop" and found.get("metric") == "mse":
        return None
    return math.inf if key == "drop" and found[key] is None else _number(found[key])


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _percentile(rank: int) -> Figure:
    return Figure(TIMES, partial(_of_runs, f"p{rank}_ms", partial(np.percentile, q=rank)))


FIGURES: Mapping[str, Figure] = {
    "p5": _percentile(5),
    "p50": Figure(TIMES, _median),
    **{f"p{rank}": _percentile(rank) for rank in (90, 95, 99)},
    "mean": Figure(TIMES, partial(_of_runs, "mean_ms", np.mean)),
    "max": Figure(TIMES, partial(_of_runs, "max_ms", np.max)),
    "first": Figure(TIMES, partial(_middle, "first_inference_ms")),
    "init": Figure(TIMES, partial(_middle, "init_ms")),
    "size": Figure(BYTES, _size),
    "peak": Figure(BYTES, partial(_memory, "peak_rss_bytes")),
    "rss": Figure(BYTES, partial(_memory, "rss_bytes")),
    "drop": Figure(POINTS, partial(_accuracy, "drop"), "points", missing=UNMEASURED),
    "accuracy": Figure(PERCENT, partial(_accuracy, "artifact"), "%", True, f"{UNMEASURED} --metric top1"),
}


@dataclass(frozen=True)
class Limit:
    """One limit of a budget.

    Attributes:
        key: Which of `FIGURES`.
        value: In milliseconds, bytes, or points of percent.
        unit: The unit that it was given in.
        text: As it was given.
    """

    key: str
    value: float
    unit: str
    text: str = ""

    @property
    def figure(self) -> Figure:
        """What is limited."""
        return FIGURES[self.key]

    def __str__(self) -> str:
        return f"at {'least' if self.figure.least else 'most'} {self.write(self.value)}"

    def holds(self, value: float) -> bool:
        """Tell whether a value keeps the limit; a NaN never does."""
        return value >= self.value if self.figure.least else value <= self.value

    def write(self, value: float) -> str:
        """Write a value in the limit's unit, with as many digits as tell on which side of the limit it lies."""
        factor = self.figure.units[self.unit]
        digits = next((n for n in range(4, 17) if self._side(float(f"{value:.{n}g}")) == self._side(value)), 17)
        return f"{float(f'{value:.{digits}g}') / factor:.{digits}g} {self.unit}"

    def _side(self, value: float) -> tuple[bool, bool]:
        return value < self.value, value > self.value


@dataclass(frozen=True)
class Verdict:
    """What became of one limit on one device.

    Attributes:
        device: The device's name.
        artifact: The name of what was measured, with the beginning of its id where two have the same.
        bundle: Its id; None for a bare artifact.
        limit: The limit.
        value: What was measured, in the unit of `Limit.value`; None where it is unknown.
        passed: Whether it holds; what is unknown never does.
        notes: Why it is unknown, whether the median could as well lie on the other side, and what speaks against
            the measurement.
    """

    device: str
    artifact: str
    bundle: str | None
    limit: Limit
    value: float | None
    passed: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = "is unknown" if self.value is None else self.limit.write(self.value)
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.device}: {self.artifact} {self.limit.key} {found}, {self.limit}{notes}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is not finite is None."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        limit = {"key": self.limit.key, "limit": self.limit.value, "at_least": self.limit.figure.least}
        told = {"device": self.device, "artifact": self.artifact, "bundle": self.bundle}
        return {**told, **limit, "value": value, "passed": self.passed, "notes": list(self.notes)}


def parse_budget(text: str, option: str = "--budget") -> tuple[Limit, ...]:
    """Read a budget.

    Args:
        text: Limits, each KEY=NUMBER with its unit, joined by commas.
        option: What is being read, for the error.

    Raises:
        UnknownNameError: For a key or a unit that there is not.
        UsageError: For anything else that is no limit, and for a key that stands twice.
    """
    limits = tuple(_parse(part, option) for part in text.split(","))
    keys = [limit.key for limit in limits]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(option, f"limits {key} twice", "give each limit once")
    return limits


def _parse(part: str, option: str) -> Limit:
    found = _LIMIT.fullmatch(part)
    if not found:
        raise UsageError(option, f"{part!r} is no limit", "give KEY=NUMBER with its unit, such as p50=15ms,size=4MB")
    name, number, unit = found.groups()
    key = ALIASES.get(name, name)
    if key not in FIGURES:
        raise UnknownNameError(option, name, (*FIGURES, *ALIASES))
    units = FIGURES[key].units
    unit = unit or FIGURES[key].default
    if not unit:
        raise UsageError(f"{option} {name}", f"{number!r} has no unit", f"give one of {', '.join(units)}")
    if unit not in units:
        raise UnknownNameError(f"{option} {name}", unit, units)
    value = float(number) * units[unit]
    if not math.isfinite(value):
        raise UsageError(f"{option} {name}", f"{number} is too large", "give a smaller number")
    return Limit(key, value, unit, part.strip())


def check(profiles: Sequence[Profile], limits: Sequence[Limit]) -> list[Verdict]:
    """Hold measurements against a budget.

    Several profiles of one artifact on one device and delegate are judged together, as processes of one measurement:
    the median of their medians, other latencies of all their runs, the median of first inferences and of loading, the
    highest memory. A limit on ``p50`` holds where the median that was measured does not exceed it, even where its
    95 % interval does; then the verdict says so.

    Args:
        profiles: What was measured.
        limits: The budget.

    Returns:
        A verdict for each limit on each artifact and device, in order.
    """
    sides: dict[tuple[object, ...], list[Profile]] = {}
    for profile in profiles:
        artifact = profile.artifact
        what = (_id(profile), artifact.get("signature"), profile.engine.get("delegate"))
        sides.setdefault((profile.device, *what), []).append(profile)
    names = {_id(profile): str(profile.artifact.get("name")) for profile in profiles}
    return [_judge(side, limit, _label(_id(side[0]), names)) for side in sides.values() for limit in limits]


def _id(profile: Profile) -> str:
    return str(profile.artifact.get("bundle") or profile.artifact.get("sha256"))


def _label(own: str, names: Mapping[str, str]) -> str:
    """Return a name, with the beginning of the id where another bundle has the same name."""
    return names[own] if list(names.values()).count(names[own]) == 1 else f"{names[own]} {own[:12]}"


def _judge(side: Processes, limit: Limit, label: str) -> Verdict:
    value = limit.figure.read(side)
    notes = (limit.figure.missing,) if value is None else (*_doubts(side, limit), *_distrust(side, limit))
    passed = value is not None and limit.holds(value)
    return Verdict(side[0].device, label, side[0].artifact.get("bundle"), limit, value, passed, notes)


def _doubts(side: Processes, limit: Limit) -> list[str]:
    """Say where the true median may lie on either side of its limit."""
    if limit.key != "p50":
        return []
    interval = side[0].median_ms_ci95
    if not has_samples(side) or interval is None:
        return ["not sure: no 95 % interval is known"]
    low, high = interval if len(side) == 1 else side_interval(_samples(side))[1]
    if not low <= limit.value < high:
        return []
    return [f"not sure: the 95 % interval is {limit.write(low)} to {limit.write(high)}"]


def _distrust(side: Processes, limit: Limit) -> list[str]:
    """Name each kind of mark once; they speak against times, and not against sizes."""
    if limit.figure.units is not TIMES:
        return []
    kinds = dict.fromkeys(mark["kind"] for profile in side for mark in profile.marks)
    return [f"do not trust it: {', '.join(kinds)}"] if kinds else []


def enforce(verdicts: Sequence[Verdict]) -> None:
    """Refuse measurements that do not keep their budget.

    Raises:
        GateError: Naming the first limits that do not hold.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        reason = f"{len(failed)} of {len(verdicts)} limits failed: {'; '.join(map(str, failed[:NAMED]))}{more}"
        unknown = all(verdict.value is None for verdict in failed)
        better = "leave out what is unknown" if unknown else "make it faster or smaller, or loosen the budget"
        raise GateError("--budget", reason, better)
