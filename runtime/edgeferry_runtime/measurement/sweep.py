"""Trying threads and delegates, and recommending one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgeferry_runtime.engines import parse_delegates
from edgeferry_runtime.errors import DelegationError, EdgeferryError, EngineError
from edgeferry_runtime.measurement.fresh import bench_fresh
from edgeferry_runtime.measurement.local import Say, silent
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions
from edgeferry_runtime.measurement.statistics import side_interval
from edgeferry_runtime.profile import Profile

ACCELERATORS = {"tflite": ("gpu", "npu", "edgetpu"), "onnx": ("gpu", "npu")}
"""What is tried beside the CPU, by artifact format; what cannot be used is told with its reason."""


@dataclass(frozen=True)
class Row:
    """One delegate that could be used.

    Attributes:
        delegate: As it is asked for.
        median_ms: The median of its processes' medians.
        median_ms_ci95: 95 % confidence interval.
        execution: What really executed; see `edgeferry_runtime.engines.Execution`.
        warnings: What speaks against the figures.
    """

    delegate: str
    median_ms: float
    median_ms_ci95: tuple[float, float]
    execution: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        rows: The fastest first.
        refused: By delegate, why it cannot be used.
        recommended: One of the rows' delegates.
        reason: Why that one.
    """

    rows: tuple[Row, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    recommended: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def candidates(format_name: str, cores: int) -> tuple[str, ...]:
    """Return the delegates to try: threads by doubling up to all cores, then accelerators.

    Args:
        format_name: ``tflite`` or ``onnx``.
        cores: How many cores this process may use.
    """
    counts = sorted({cores, *(1 << i for i in range(cores.bit_length()) if 1 << i <= cores)})
    return (*(f"cpu:{count}" for count in counts), *ACCELERATORS[format_name])


def sweep(
    path: str | os.PathLike[str],
    delegates: Sequence[str],
    options: BenchOptions = DEFAULTS,
    *,
    rounds: int = 3,
    say: Say = silent,
) -> Sweep:
    """Measure an artifact with each delegate in turn, forth and back, each time in a fresh process.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        delegates: What to try.
        options: How to measure in each process; its delegate is replaced.
        rounds: How often.
        say: Takes the progress.

    Raises:
        EngineError: If none of them can be used.
        EdgeferryError: What is wrong with the artifact itself.
    """
    found: dict[str, list[Profile]] = {delegate: [] for delegate in delegates}
    refused: dict[str, EdgeferryError] = {}
    for turn in range(rounds):
        for delegate in delegates if turn % 2 == 0 else delegates[::-1]:
            if delegate not in refused:
                try:
                    found[delegate].append(bench_fresh(path, replace(options, delegate=delegate), say=say))
                    say(f"round {turn + 1} of {rounds}: {delegate} {found[delegate][-1].median_ms:.4g} ms")
                except (EngineError, DelegationError) as error:
                    refused[delegate] = error
                    say(f"round {turn + 1} of {rounds}: {delegate} cannot be used: {error.reason}")
    rows = sorted((_row(d, p, options.seed) for d, p in found.items() if d not in refused), key=lambda r: r.median_ms)
    if not rows:
        raise next(iter(refused.values()))
    best, reason = recommend(rows)
    return Sweep(tuple(rows), {d: error.reason for d, error in refused.items()}, best.delegate, reason)


def _row(delegate: str, profiles: Sequence[Profile], seed: int) -> Row:
    median, interval = side_interval([np.array(p.samples_ms, np.float64) for p in profiles], seed)
    by_kind = {warning.partition(":")[0]: warning for profile in profiles for warning in profile.warnings}
    return Row(delegate, median, interval, profiles[0].execution, tuple(by_kind.values()))


def recommend(rows: Sequence[Row]) -> tuple[Row, str]:
    """Choose the fastest, or of those whose intervals overlap with its own the one that takes the fewest threads.

    An accelerator that is no faster than the CPU for sure is not worth what it needs, and comes last on a tie.

    Args:
        rows: The fastest first.
    """
    fastest = rows[0]
    ties = [row for row in rows if row.median_ms_ci95[0] <= fastest.median_ms_ci95[1]]
    chosen = min(ties, key=_cost)
    if len(ties) == 1:
        return chosen, "the fastest, and no other interval overlaps with its own"
    if chosen is fastest:
        return chosen, f"the fastest, and as cheap as any that may be as fast ({_names(ties, chosen)})"
    return chosen, f"cannot be told from the fastest ({_names(ties, chosen)}), and takes less"


def _names(rows: Sequence[Row], without: Row) -> str:
    return ", ".join(row.delegate for row in rows if row is not without)


def _cost(row: Row) -> tuple[bool, int]:
    (delegate,) = parse_delegates(row.delegate)
    return not delegate.is_plain_cpu, delegate.threads or 0
