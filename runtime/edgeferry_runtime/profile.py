"""A profile: one measurement of one artifact on one device, as versioned JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import DataError, MissingFileError

SCHEMA = 1


@dataclass(frozen=True)
class Profile:
    """Latency keys follow LiteRT's benchmark result; all `_ms` are milliseconds, all `_bytes` bytes.

    Attributes:
        artifact: name, format, precision, bundle id (None for a bare artifact), size_bytes, sha256; where it has
            several signatures, which one was measured.
        engine: name, version, delegate.
        device: The device's name; ``local`` for this machine.
        machine: Board, architecture, cores, Python, memory: what does not change while it runs.
        init_ms: Loading the artifact into its engine.
        first_inference_ms: The first, cold run.
        num_runs: Measured runs.
        warmup_runs: Runs before them that do not count, the first among them.
        samples_ms: Each measured run, in order.
        median_ms_ci95: 95 % confidence interval of the median, by bootstrap.
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
        operators: Where it was asked for, time per operator: the attributes of `measurement.operators.Operator`.
        operators_run: The other attributes of `measurement.operators.OperatorTimes`.
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
    p90_ms: float
    p95_ms: float
    p99_ms: float
    median_ms_ci95: tuple[float, float]
    samples_ms: tuple[float, ...]
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
    operators: tuple[Mapping[str, Any], ...] = ()
    operators_run: Mapping[str, Any] = field(default_factory=dict)
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
            DataError: If it is of another schema or lacks a key.
        """
        if data.get("schema") != SCHEMA:
            reason = f"has schema {data.get('schema')}; this version reads {SCHEMA}"
            raise DataError("profile", reason, "measure again with this version")
        names = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names}
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError("profile", f"is incomplete ({error})", "measure again with this version") from error


def is_profile(path: Path) -> bool:
    """Tell whether a file is JSON by its first character, as a profile is and an artifact never."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False


def read_profile(path: Path) -> Profile:
    """Read what ``ferry bench --json`` printed, or ``ferry profile --json`` for one device.

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
            raise DataError(path, f"holds {len(found)} profiles", "measure one device at a time")
        data = found[0]
    if not isinstance(data, dict):
        raise DataError(path, "is no profile", again)
    return Profile.from_dict(data)
