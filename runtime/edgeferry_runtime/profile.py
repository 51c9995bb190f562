"""A profile: one measurement of one artifact on one device, as versioned JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgeferry_runtime.errors import DataError

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
        state_before, state_after: Temperature, frequency, governor, throttling, load; absent keys could not be read.
        warnings: Why the run should not be trusted; empty where nothing was seen.
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
    state_before: Mapping[str, Any] = field(default_factory=dict)
    state_after: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
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
