"""Time per operator: what a model's run is made of, from the engine's own profiler."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.codec import encoder
from edgeferry_runtime.engines import Delegate, Engine, open_engine, parse_delegates
from edgeferry_runtime.engines.recording import Recording, Timed
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.feeds import sample_feeds
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.measurement.fresh import ask
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions
from edgeferry_runtime.measurement.run import collect, warm_up
from edgeferry_runtime.tensors import Array

MOST_SECS = 5.0
"""Seconds to measure at most without the profiler; as many runs follow with it."""


@dataclass(frozen=True)
class Operator:
    """One operator of a graph that was executed.

    Attributes:
        name: Of the node; ``xnnpack:SUBGRAPH:PARTITION:INDEX`` where XNNPACK does not tell which node it is.
        type: As the engine calls what it executed.
        provider: What executed it.
        mean_us: Microseconds in a run; those of operators inside a loop or branch count there alone.
        median_us: The same of the middle run.
        share: Of the time of all operators, 0 to 1, in the middle half of the runs, which leaves out disturbed ones.
        calls: In a run, on average.
    """

    name: str
    type: str
    provider: str
    mean_us: float
    median_us: float
    share: float
    calls: float


@dataclass(frozen=True)
class OperatorTimes:
    """What a run is made of.

    Attributes:
        method: Where the figures are from.
        runs: Runs under the profiler.
        run_us: Median of a run without the profiler, in the engine and the process that was profiled.
        profiled_us: Median of a run with it.
        sum_us: Median of the operators' sum in a run.
        operators: In the order of execution.
        graph: How many nodes of each operator the file has, in its main graph.
        notes: What limits the figures.
    """

    method: str
    runs: int
    run_us: float
    profiled_us: float
    sum_us: float
    operators: tuple[Operator, ...]
    graph: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """The operators' sum over the run's median without the profiler; above 1 where the profiler costs."""
        return self.sum_us / self.run_us

    @property
    def slowdown(self) -> float:
        """How many times as long a run takes under the profiler."""
        return self.profiled_us / self.run_us

    @property
    def absent(self) -> dict[str, int]:
        """Nodes of the file, by operator, that no operator of that name executed: folded, fused, or of a delegate."""
        executed = Counter(operator.type for operator in self.operators)
        return dict(Counter(self.graph) - executed)

    def by_type(self) -> list[Operator]:
        """Sum up operators of one type and provider, the slowest first."""
        groups: dict[tuple[str, str], list[Operator]] = {}
        for operator in self.operators:
            groups.setdefault((operator.type, operator.provider), []).append(operator)
        sums = [_sum(kind, provider, group) for (kind, provider), group in groups.items()]
        return sorted(sums, key=lambda operator: -operator.share)

    def slowest(self) -> list[Operator]:
        """Return the operators, the slowest first."""
        return sorted(self.operators, key=lambda operator: -operator.share)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the attributes, ``coverage``, ``slowdown`` and ``absent``."""
        return {**asdict(self), "coverage": self.coverage, "slowdown": self.slowdown, "absent": self.absent}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OperatorTimes:
        """Read the JSON form."""
        values = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        operators = tuple(Operator(**operator) for operator in values.pop("operators"))
        return cls(**{**values, "operators": operators, "notes": tuple(values.get("notes", ()))})


def _sum(kind: str, provider: str, group: list[Operator]) -> Operator:
    figures = {
        name: sum(getattr(operator, name) for operator in group) for name in ("mean_us", "median_us", "share", "calls")
    }
    return Operator(f"{len(group)} operators" if len(group) > 1 else group[0].name, kind, provider, **figures)


def summarize_operators(recording: Recording) -> OperatorTimes:
    """Sum up what a profiler told, by operator."""
    of_run = [_by_key(run) for run in recording.runs]
    first: dict[object, Timed] = {timed.key: timed for run in reversed(recording.runs) for timed in reversed(run)}
    order = list(dict.fromkeys(timed.key for run in recording.runs for timed in run))
    sums = np.array([[run.get(key, (0.0, 0))[0] for key in order] for run in of_run], np.float64)
    calls = np.array([[run.get(key, (0.0, 0))[1] for key in order] for run in of_run], np.float64).mean(axis=0)
    totals = sums.sum(axis=1)
    middle = sums[np.argsort(totals)[len(totals) // 4 : len(totals) - len(totals) // 4]].mean(axis=0)
    shares = middle / (middle.sum() or 1.0)
    operators = tuple(
        Operator(first[key].name, first[key].type, first[key].provider, *map(float, figures))
        for key, *figures in zip(order, sums.mean(axis=0), np.median(sums, axis=0), shares, calls, strict=True)
    )
    total = float(np.median(totals))
    plain, profiled = (float(np.median(ms)) * 1e3 for ms in (recording.plain_ms, recording.profiled_ms))
    graph = dict(recording.graph)
    return OperatorTimes(recording.method, len(of_run), plain, profiled, total, operators, graph, recording.notes)


def _by_key(run: tuple[Timed, ...]) -> dict[object, tuple[float, int]]:
    """Sum up microseconds and calls of each operator."""
    sums: dict[object, tuple[float, int]] = {}
    for timed in run:
        us, calls = sums.get(timed.key, (0.0, 0))
        sums[timed.key] = us + timed.us, calls + 1
    return sums


def operators(path: str | os.PathLike[str], options: BenchOptions = DEFAULTS) -> OperatorTimes:
    """Measure time per operator in this process, which the engine's library may kill: see `operators_fresh`.

    It is fed as `edgeferry_runtime.bench` does. The profiler slows the run, so no latency is taken from it.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        options: How often to run, and on how many threads.

    Raises:
        EngineError: If the engine has no profiler, or the delegate is not the CPU.
        EdgeferryError: What `edgeferry_runtime.load` raises.
    """
    delegate = _cpu(options.delegate)
    bundle = Bundle.open(path) if Path(path).is_dir() else None
    artifact = bundle.artifact if bundle else Path(path)
    record = {"tflite": _record_tflite, "onnx": _record_onnx}[check_artifact(artifact)]
    return summarize_operators(record(artifact, delegate, bundle, options))


def operators_fresh(path: str | os.PathLike[str], options: BenchOptions = DEFAULTS) -> OperatorTimes:
    """Do what `operators` does in a fresh process, which may die of it.

    Raises:
        EngineCrashError: If the process dies, as on cores that lack instructions which LiteRT's library uses.
        EdgeferryError: What `operators` raises.
    """
    _cpu(options.delegate)
    return OperatorTimes.from_dict(ask(path, {"op": "operators", "options": asdict(options)}, lambda text: None))


def _cpu(text: str) -> Delegate:
    """Read a delegate, which can only be the engine's own kernels on the CPU."""
    places = parse_delegates(text)
    if len(places) > 1 or not places[0].is_plain_cpu:
        reason = "has no profiler that tells time per operator"
        raise EngineError(f"--delegate {text}", reason, "leave out --ops, or use --delegate cpu")
    return places[0]


def _measure(options: BenchOptions) -> Callable[[Callable[[], object]], Array]:
    """Return what warms up and measures, for no longer than that takes."""
    limit = min(options.max_secs, MOST_SECS)
    quick = replace(options, min_secs=0.0, max_secs=limit, max_warmup_secs=min(options.max_warmup_secs, limit))

    def measure(run: Callable[[], object]) -> Array:
        warm_up(run, quick)
        return collect(run, quick)

    return measure


def _record_onnx(path: Path, delegate: Delegate, bundle: Bundle | None, options: BenchOptions) -> Recording:
    from edgeferry_runtime.engines.onnx_operators import record

    engine = open_engine("onnx", path, (delegate,), options.signature)
    feeds = _feeds(engine, bundle, options)
    engine.close()
    return record(path, delegate, feeds, _measure(options))


def _record_tflite(path: Path, delegate: Delegate, bundle: Bundle | None, options: BenchOptions) -> Recording:
    from edgeferry_runtime.engines.litert_operators import describe, record

    engine = open_engine("tflite", path, (delegate,), options.signature)
    feeds, target = _feeds(engine, bundle, options), describe(path, engine)
    engine.close()
    return record(target, delegate, feeds, _measure(options))


def _feeds(engine: Engine, bundle: Bundle | None, options: BenchOptions) -> dict[str, Array]:
    """Return stored inputs by name, in the engine's order."""
    real = sample_feeds(engine.inputs, bundle, options)
    return {spec.name: encoder(spec)(real[spec.name]) for spec in engine.inputs}
