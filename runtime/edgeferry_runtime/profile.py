"""A profile: one measurement of one artifact on one device, as versioned JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import DataError, MissingFileError

SCHEMA = 1
NAMED = ("artifact", "engine")
"""The values that have a name."""


@dataclass(frozen=True)
class Profile:
    """Latency keys follow LiteRT's benchmark result; all `_ms` are milliseconds, all `_bytes` bytes.

    Attributes:
        artifact: name, format, precision, bundle id (None for a bare artifact), size_bytes, sha256; accuracy, as the
            bundle's manifest has it, else None; where it has several signatures, which one was measured.
        engine: name, version, delegate.
        device: The device's name; ``local`` for this machine.
        machine: Board, architecture, cores, Python, memory: what does not change while it runs.
        init_ms: Loading the artifact into its engine.
        first_inference_ms: The first, cold run.
        num_runs: Measured runs.
        warmup_runs: Runs before them that do not count, the first among them.
        p90_ms, p99_ms: Percentiles; None where a program that is not ours measured.
        samples_ms: Each measured run, in order; empty where a program that is not ours measured.
        median_ms_ci95: 95 % confidence interval of the median, by bootstrap; None where there are no samples.
        rss_bytes: Resident memory after the last run.
        peak_rss_bytes: Its highest value.
        nodes_total, nodes_delegated, partitions: What the delegate took; None where the engine does not tell.
        execution: What really executes it: the attributes of `engines.Execution`.
        state_before, state_after: Temperature, frequency, governor, throttling, load; absent keys could not be read.
        states_during: The same while it ran, each with the second ``at_s`` at which it was read.
        baseline_rss_bytes: Resident memory before the engine was imported.
        scheduling: involuntary_switches, waited_s, stolen_s: what scheduler and hypervisor took from the measured runs.
        windows: Of a sustained run: at_s, runs, p5_ms, median_ms, p95_ms and state of each; `samples_ms` then keeps
            every second, third, … sample, and `num_runs` counts them all.
        cooling: What was waited for before: target_c, start_c, end_c, waited_s.
        calming: The same of the load: target_load, start_load, end_load, waited_s.
        operators: Where it was asked for, time per operator: the attributes of `measurement.operators.Operator`.
        operators_run: The other attributes of `measurement.operators.OperatorTimes`.
        binary: Of a program that is not ours, and measured: sha256, proven, and then samples and figures, or else the
            reason; warmup_ms, the mean of the warm-up, and memory_bytes, by how much the peak of its memory grew.
        warnings: Why the run should not be trusted; empty where nothing was seen.
        marks: The same as kind and reason.
        verdict: The same in one sentence.
        timestamp: UTC, ISO 8601.
        edgeferry_version: The runtime that measured.
    """

    artifact: Mapping[str, Any]
    engine: Mapping[str, Any]
    device: str
    machine: Mapping[str, Any]
    init_ms: float
    first_inference_ms: float
    num_runs: int
    warmup_runs: int
    mean_ms: float
    stddev_ms: float
    min_ms: float
    max_ms: float
    p5_ms: float
    median_ms: float
    p95_ms: float
    p90_ms: float | None = None
    p99_ms: float | None = None
    median_ms_ci95: tuple[float, float] | None = None
    samples_ms: tuple[float, ...] = ()
    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    nodes_total: int | None = None
    nodes_delegated: int | None = None
    partitions: int | None = None
    execution: Mapping[str, Any] = field(default_factory=dict)
    state_before: Mapping[str, Any] = field(default_factory=dict)
    state_after: Mapping[str, Any] = field(default_factory=dict)
    states_during: tuple[Mapping[str, Any], ...] = ()
    baseline_rss_bytes: int | None = None
    scheduling: Mapping[str, Any] = field(default_factory=dict)
    windows: tuple[Mapping[str, Any], ...] = ()
    cooling: Mapping[str, Any] = field(default_factory=dict)
    calming: Mapping[str, Any] = field(default_factory=dict)
    operators: tuple[Mapping[str, Any], ...] = ()
    operators_run: Mapping[str, Any] = field(default_factory=dict)
    binary: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    marks: tuple[Mapping[str, str], ...] = ()
    verdict: str = ""
    timestamp: str = ""
    edgeferry_version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Read the JSON form.

        Raises:
            DataError: If it is of another schema, lacks a key, or has a value that cannot be one.
        """
        if data.get("schema") != SCHEMA:
            reason = f"has schema {data.get('schema')}; this version reads {SCHEMA}"
            raise DataError("profile", reason, "measure again with this version")
        kinds = {f.name: str(f.type) for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in kinds}
        for name, value in values.items():
            if not _fits(kinds[name], value) or (name in NAMED and not isinstance(value.get("name"), str)):
                raise DataError("profile", f"is damaged: {name} = {value!r:.80}", "measure again with this version")
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError("profile", f"is incomplete ({error})", "measure again with this version") from error


def _fits(kind: str, value: Any) -> bool:
    """Tell whether a value from outside is of an annotated type; numbers are finite."""
    kind, _, optional = kind.partition(" | ")
    if value is None and optional:
        return True
    if kind.startswith("tuple["):
        inner, _, last = kind.removeprefix("tuple[").removesuffix("]").rpartition(", ")
        whole = isinstance(value, tuple) and (last == "..." or len(value) == len(kind.split(", ")))
        return whole and all(_fits(inner, each) for each in value)
    if kind in ("float", "int"):
        numbers = int if kind == "int" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, str if kind == "str" else Mapping)


def is_profile(path: Path) -> bool:
    """Tell whether a file is JSON by its first character, as a profile is and an artifact never."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False


def read_profile(path: Path) -> Profile:
    """Read what ``ferry bench --json`` printed, or ``ferry profile --json`` for one bundle, device and round.

    Raises:
        MissingFileError: If it cannot be read.
        DataError: If it is no profile, or holds several.
    """
    again = "give what ferry bench --json printed"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is no JSON ({error})", again) from error
    outcomes = data.get("profiles") if isinstance(data, dict) else None
    if isinstance(outcomes, list):
        found = [outcome["profile"] for outcome in outcomes if isinstance(outcome, dict) and outcome.get("profile")]
        if len(found) != 1:
            raise DataError(path, f"holds {len(found)} profiles", "give one of a bundle, a device and a round")
        data = found[0]
    if not isinstance(data, dict):
        raise DataError(path, "is no profile", again)
    return Profile.from_dict(data)
