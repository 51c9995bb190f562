"""Measure one artifact on this machine, and say whether the figures can be trusted."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime import __version__, machine
from edgeferry_runtime.bundle import Bundle, sha256_file
from edgeferry_runtime.engines import Execution, import_engine, open_engine, parse_delegates
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.feeds import random_feeds
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.model import Model
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tensors import Array

RESAMPLES = 10_000
SPREAD = 1.5
"""The 95th percentile over the median, above which a run is called unsteady."""
DRIFT = 0.1
"""The change of the median from the first to the last quarter, above which a run is said to drift."""

Clock = Callable[[], int]


@dataclass(frozen=True)
class BenchOptions:
    """How to measure; the names are those of LiteRT's ``benchmark_model``.

    Attributes:
        num_runs: Runs to measure at least.
        warmup_runs: Runs before them, the first one among them.
        min_secs: Seconds to measure at least.
        max_secs: Seconds after which to stop, even before `num_runs`.
        delegate: Where to execute; several, joined by commas, are an order of preference.
        require_full_delegation: Refuse a delegate that does not take every node.
        seed: Of the inputs, where there is no probe, and of the confidence interval.
    """

    num_runs: int = 50
    warmup_runs: int = 10
    min_secs: float = 1.0
    max_secs: float = 150.0
    delegate: str = "cpu"
    seed: int = 0
    require_full_delegation: bool = False

    def __post_init__(self) -> None:
        parse_delegates(self.delegate)
        for name, least in (("num_runs", 1), ("warmup_runs", 1), ("min_secs", 0), ("max_secs", 0), ("seed", 0)):
            if not getattr(self, name) >= least:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(option, f"is {getattr(self, name)}", f"give {least} or more")
        if self.min_secs > self.max_secs:
            raise UsageError("--min-secs", f"is {self.min_secs}, above --max-secs {self.max_secs}", "lower it")


def bench(path: str | os.PathLike[str], options: BenchOptions = BenchOptions(), *, device: str = "local") -> Profile:
    """Measure a bundle or an artifact.

    It is fed the first sample of the bundle's probe, or else seeded random numbers in the range that each input
    declares. Each figure is of one call of the model, from real inputs to real outputs. Loading excludes the
    import of the engine and the verification of the file.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        options: How to measure.
        device: The name that the profile gives this machine.

    Raises:
        EdgeferryError: What `edgeferry_runtime.load` raises, and EngineError where a run fails.
    """
    bundle = Bundle.open(path) if Path(path).is_dir() else None
    artifact = bundle.artifact if bundle else Path(path)
    format_name, places = check_artifact(artifact), parse_delegates(options.delegate)
    import_engine(format_name, artifact)
    before = machine.state()

    start = time.perf_counter_ns()
    engine = open_engine(format_name, artifact, places)
    init_ms = (time.perf_counter_ns() - start) / 1e6
    if options.require_full_delegation:
        engine.execution.check_full(artifact)

    with Model(artifact, format_name, engine, bundle.manifest if bundle else None) as model:
        feeds = _feeds(model, bundle, options.seed)
        warmup, samples = measure(lambda: model.run(feeds), options)
    after = machine.state()
    facts = machine.describe()
    return Profile(
        artifact=_artifact(artifact, format_name, bundle),
        engine={"name": model.engine, "version": model.engine_version, "delegate": model.delegate},
        device=device,
        machine=facts,
        init_ms=init_ms,
        first_inference_ms=float(warmup[0]),
        num_runs=len(samples),
        warmup_runs=len(warmup),
        **summarize(samples, options.seed),
        samples_ms=tuple(samples.tolist()),
        **machine.memory(),
        **_delegation(model.execution),
        state_before=before,
        state_after=after,
        warnings=(*steadiness(samples, options), *conditions(before, after, facts["cores"])),
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgeferry_version=__version__,
    )


def measure(
    run: Callable[[], object], options: BenchOptions, clock: Clock = time.perf_counter_ns
) -> tuple[Array, Array]:
    """Time every call of `run`.

    Args:
        run: What to measure.
        options: How often and how long.
        clock: Tells nanoseconds.

    Returns:
        Milliseconds of each warm-up and of each measured run, float64.
    """
    warmup = _time(run, clock, lambda runs, spent: runs < options.warmup_runs and spent < options.max_secs)
    samples = _time(
        run,
        clock,
        lambda runs, spent: spent < options.max_secs and (runs < options.num_runs or spent < options.min_secs),
    )
    return warmup, samples


def _time(run: Callable[[], object], clock: Clock, more: Callable[[int, float], bool]) -> Array:
    """Call `run` at least once, and while `more` of runs and seconds spent says so."""
    taken: list[int] = []
    begin = now = clock()
    while not taken or more(len(taken), (now - begin) / 1e9):
        start = clock()
        run()
        now = clock()
        taken.append(now - start)
    return np.round(np.array(taken, np.float64) / 1e6, 6)


def summarize(samples: Array, seed: int = 0) -> dict[str, Any]:
    """Return the figures of a profile that describe its samples.

    Args:
        samples: Milliseconds, float64 of [runs].
        seed: Of the confidence interval.
    """
    p5, median, p90, p95, p99 = (float(p) for p in np.percentile(samples, (5, 50, 90, 95, 99)))
    return {
        "mean_ms": float(samples.mean()),
        "stddev_ms": float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        "p5_ms": p5,
        "median_ms": median,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        "median_ms_ci95": median_interval(samples, seed),
    }


def median_interval(samples: Array, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, by the percentile bootstrap.

    The median of n draws from n samples is the sample whose rank is n times the median of n uniform numbers,
    which is Beta((n + 1) / 2, (n + 1) / 2) distributed (exactly so for odd n). So the medians of the resamples
    are drawn at once, without the resamples.

    Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", section 3; Maritz and Jarrett 1978.

    Args:
        samples: float64 of [runs].
        seed: Of the resampling.
    """
    n = len(samples)
    ranks = n * np.random.default_rng(seed).beta((n + 1) / 2, (n + 1) / 2, RESAMPLES)
    medians = np.sort(samples)[np.minimum(ranks.astype(np.int64), n - 1)]
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def steadiness(samples: Array, options: BenchOptions) -> tuple[str, ...]:
    """Say what in the samples themselves speaks against them."""
    warnings = []
    if len(samples) < options.num_runs:
        warnings.append(f"only {len(samples)} of {options.num_runs} runs fitted into {options.max_secs:g} s")
    median, p95 = np.percentile(samples, (50, 95))
    if p95 > SPREAD * median:
        warnings.append(f"unsteady: the 95th percentile is {p95 / median:.1f} times the median")
    quarter = len(samples) // 4
    if quarter >= 5:
        first, last = np.median(samples[:quarter]), np.median(samples[-quarter:])
        if abs(last / first - 1) > DRIFT:
            warnings.append(f"drifting: the last quarter's median is {last / first - 1:+.0%} off the first's")
    return tuple(warnings)


def conditions(before: Mapping[str, Any], after: Mapping[str, Any], cores: int) -> tuple[str, ...]:
    """Say what in the machine's state speaks against the run.

    Args:
        before: The state before the run; see `machine.state`.
        after: The state after it.
        cores: How many cores there are.
    """
    warnings = []
    words = [word for word in after.get("throttled", ()) if word not in before.get("throttled", ())]
    words += [word for word in before.get("throttled", ()) if "since boot" not in word]
    if words:
        warnings.append(f"throttled: {', '.join(words)}; check cooling and power supply")
    if before.get("load1", 0) > max(1.0, cores / 2):
        warnings.append(f"busy: load {before['load1']:.1f} on {cores} cores before the run")
    first, last = before.get("frequency_mhz", 0), after.get("frequency_mhz", math.inf)
    if last < 0.9 * first:
        warnings.append(f"slowed: from {first:.0f} to {last:.0f} MHz")
    return tuple(warnings)


def _feeds(model: Model, bundle: Bundle | None, seed: int) -> Mapping[str, Array]:
    if bundle:
        probe = bundle.probe()
        if len(probe):
            return next(probe.feeds())
    return random_feeds(model.inputs, seed)


def _delegation(execution: Execution) -> dict[str, Any]:
    """Return the figures of a profile that describe what executes."""
    counts = {key: getattr(execution, key) for key in ("nodes_total", "nodes_delegated", "partitions")}
    return {**counts, "execution": execution.to_dict()}


def _artifact(path: Path, format_name: str, bundle: Bundle | None) -> dict[str, Any]:
    return {
        "name": bundle.manifest.name if bundle else path.stem,
        "format": format_name,
        "precision": bundle.manifest.precision if bundle else None,
        "bundle": bundle.id if bundle else None,
        "size_bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }
