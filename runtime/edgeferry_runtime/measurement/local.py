"""One measurement, from loading to the verdict, in the process that calls it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime import __version__, machine
from edgeferry_runtime.artifact_files import artifact_sha256, artifact_size
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.engines import Engine, import_engine, open_engine, parse_delegates
from edgeferry_runtime.engines.execution import gate
from edgeferry_runtime.feeds import sample_feeds
from edgeferry_runtime.guard import check_artifact, try_in_child
from edgeferry_runtime.measurement import marks
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions
from edgeferry_runtime.measurement.run import Run, Warmup, collect, warm_up
from edgeferry_runtime.measurement.statistics import summarize
from edgeferry_runtime.measurement.sustained import WINDOWS, Window, sustain
from edgeferry_runtime.measurement.waiting import LOAD, TEMPERATURE, Reading, Time, Wait, wait
from edgeferry_runtime.measurement.watch import Scheduling, Watch, scheduling
from edgeferry_runtime.model import Model
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tensors import Array

Say = Callable[[str], None]


def silent(message: str) -> None:
    """Take progress that nobody wants to see."""


@dataclass(frozen=True)
class Measured:
    """What the runs gave.

    Attributes:
        warmup: The runs that do not count.
        samples: Milliseconds of each run, or of those that were kept, float64.
        runs: How many were measured.
        windows: Of a sustained run.
        states: What the machine was like while it ran.
        counted: What the scheduler counted meanwhile.
        seconds: How long it took.
    """

    warmup: Warmup
    samples: Array
    runs: int
    windows: tuple[Window, ...]
    states: tuple[Mapping[str, Any], ...]
    counted: Scheduling
    seconds: float


def bench(
    path: str | os.PathLike[str],
    options: BenchOptions = DEFAULTS,
    *,
    device: str = "local",
    say: Say = silent,
    sensors: Path = machine.ROOT,
) -> Profile:
    """Measure a bundle or an artifact in this process.

    It is fed the first sample of the bundle's probe, or else seeded random numbers in the range that each input
    declares. Each figure is of one call of the model, from real inputs to real outputs. Loading excludes the
    import of the engine and the verification of the file; with several delegates to prefer from, it is the second
    loading in this process, because the first is what finds out which of them can be used.

    Memory is the whole process's, so whatever else lives in it is counted too. `edgeferry_runtime.bench_fresh`
    measures in a new process, as ``ferry bench`` and devices do.

    Args:
        path: A bundle's folder, or a ``.tflite`` or ``.onnx`` file.
        options: How to measure.
        device: The name that the profile gives this machine.
        say: Takes progress, where there is any to tell.
        sensors: The folder below which the machine's sensors lie.

    Raises:
        EdgeferryError: What `edgeferry_runtime.load` raises, and EngineError where a run fails.
        UsageError: If `options.cool_to` or `options.max_load` is asked for and the machine does not tell it.
    """
    bundle = Bundle.open(path) if Path(path).is_dir() else None
    artifact = bundle.artifact if bundle else Path(path)
    format_name = check_artifact(artifact)
    if bundle:
        bundle.check_weights()
    operators = _operators(path, options)
    read = partial(machine.state, sensors)
    waits = wait(read, _targets(options), options.max_wait_secs, say, Time())
    baseline = machine.memory(sensors)["rss_bytes"]
    import_engine(format_name, artifact)
    before = read()
    engine, init_ms = _load(format_name, artifact, options)
    manifest = bundle.manifest.at(options.signature) if bundle else None
    with Model(artifact, format_name, engine, manifest) as model:
        feeds = sample_feeds(model.inputs, bundle, options)
        measured = _measure(partial(model.run, feeds), options, read, say)
        memory = machine.memory(sensors)
    states = (before, *measured.states, read())
    facts = machine.describe()
    found = _marks(measured, options, waits, states, facts["cores"])
    return Profile(
        artifact={**_artifact(artifact, format_name, bundle), **_signature(model)},
        engine={"name": model.engine, "version": model.engine_version, "delegate": model.delegate},
        device=device,
        machine=facts,
        init_ms=init_ms,
        first_inference_ms=float(measured.warmup.samples[0]),
        num_runs=measured.runs,
        warmup_runs=len(measured.warmup.samples),
        **summarize(measured.samples, options.seed),
        samples_ms=tuple(measured.samples.tolist()),
        **memory,
        baseline_rss_bytes=baseline,
        **_delegation(engine),
        state_before=states[0],
        states_during=states[1:-1],
        state_after=states[-1],
        scheduling=_scheduling(measured.counted),
        windows=tuple(window.to_dict() for window in measured.windows),
        **_waits(waits),
        **operators,
        warnings=tuple(map(str, found)),
        marks=tuple(vars(mark) for mark in found),
        verdict=marks.verdict(found),
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgeferry_version=__version__,
    )


def _operators(path: str | os.PathLike[str], options: BenchOptions) -> dict[str, Any]:
    """Return the figures of a profile that describe operators; they come from another process, so nothing is kept."""
    if not options.ops:
        return {}
    from edgeferry_runtime.measurement.operators import operators_fresh

    found = operators_fresh(path, options).to_dict()
    return {"operators": tuple(found.pop("operators")), "operators_run": found}


def _targets(options: BenchOptions) -> dict[Reading, float]:
    wanted = {TEMPERATURE: options.cool_to, LOAD: options.max_load}
    return {reading: value for reading, value in wanted.items() if value is not None}


def _waits(waits: Sequence[Wait]) -> dict[str, Any]:
    """Return the figures of a profile that describe what was waited for."""
    names = {TEMPERATURE: "cooling", LOAD: "calming"}
    return {names[found.reading]: found.to_dict() for found in waits}


def _load(format_name: str, artifact: Path, options: BenchOptions) -> tuple[Engine, float]:
    """Return the engine and the milliseconds that loading took."""
    with gate(options.require_full_delegation):
        engine, init_ms = _open(format_name, artifact, options)
    if options.require_full_delegation:
        engine.execution.check_full(artifact)
    return engine, init_ms


def _open(format_name: str, artifact: Path, options: BenchOptions) -> tuple[Engine, float]:
    places = parse_delegates(options.delegate)
    found = None
    if len(places) == 1 and not places[0].is_plain_cpu:
        try_in_child(artifact, delegate=options.delegate)
    elif len(places) > 1:
        engine = open_engine(format_name, artifact, places, options.signature)
        found = engine.execution
        places = parse_delegates(found.delegate)
        engine.close()
    start = time.perf_counter_ns()
    engine = open_engine(format_name, artifact, places, options.signature, tried=True)
    init_ms = (time.perf_counter_ns() - start) / 1e6
    if found:
        engine.execution = replace(engine.execution, asked=found.asked, fallbacks=found.fallbacks)
    return engine, init_ms


def _measure(run: Run, options: BenchOptions, read: Callable[[], Mapping[str, Any]], say: Say) -> Measured:
    """Warm up, then measure, counting what the scheduler and the machine do meanwhile."""
    warmup = warm_up(run, options)
    watch = Watch(read)
    before, begin = scheduling(), time.perf_counter()
    if options.sustained_secs:
        windows, samples = _sustained(run, options.sustained_secs, read, say)
        runs, states = sum(window.runs for window in windows), tuple(window.state for window in windows)
    else:
        samples = collect(run, options, between=watch.between)
        runs, windows, states = len(samples), (), tuple(watch.states)
    seconds = time.perf_counter() - begin
    return Measured(warmup, samples, runs, windows, states, scheduling().since(before), seconds)


def _sustained(
    run: Run, seconds: float, read: Callable[[], Mapping[str, Any]], say: Say
) -> tuple[tuple[Window, ...], Array]:
    windows, kept = [], []
    for window, samples in sustain(run, seconds, time.perf_counter_ns, read):
        windows.append(window)
        kept.append(samples)
        if len(windows) % (WINDOWS // 6) == 0:
            say(_progress(window, seconds))
    return tuple(windows), np.concatenate(kept)


def _progress(window: Window, seconds: float) -> str:
    warm = f", {window.state['temperature_c']:.1f} °C" if "temperature_c" in window.state else ""
    return f"{format_duration(window.at_s)} of {format_duration(seconds)}: median {window.median_ms:.4g} ms{warm}"


def _marks(
    measured: Measured,
    options: BenchOptions,
    waits: Sequence[Wait],
    states: Sequence[Mapping[str, Any]],
    cores: int,
) -> tuple[marks.Mark, ...]:
    return (
        *(found.mark for found in waits if found.mark),
        *marks.of_samples(measured.samples, options, measured.warmup.steady),
        *marks.of_states(states, cores),
        *marks.of_scheduling(measured.counted, measured.seconds),
    )


def _signature(model: Model) -> dict[str, str]:
    """Say which signature was measured, where there are several."""
    return {"signature": model.signature} if len(model.signatures) > 1 else {}


def _delegation(engine: Engine) -> dict[str, Any]:
    """Return the figures of a profile that describe what executes."""
    execution = engine.execution
    counts = {key: getattr(execution, key) for key in ("nodes_total", "nodes_delegated", "partitions")}
    return {**counts, "execution": execution.to_dict()}


def _scheduling(counted: Scheduling) -> dict[str, Any]:
    return {
        "involuntary_switches": counted.involuntary,
        "waited_s": counted.waited_s,
        "stolen_s": counted.stolen_s,
    }


def _artifact(path: Path, format_name: str, bundle: Bundle | None) -> dict[str, Any]:
    verification = bundle.manifest.verification if bundle else {}
    return {
        "name": bundle.manifest.name if bundle else path.stem,
        "format": format_name,
        "precision": bundle.manifest.precision if bundle else None,
        "bundle": bundle.id if bundle else None,
        "size_bytes": artifact_size(path),
        "sha256": artifact_sha256(path),
        "accuracy": verification.get("accuracy"),
    }
