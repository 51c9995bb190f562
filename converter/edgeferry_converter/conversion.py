"""The way of one model: open, run, lower, quantize, verify, bundle.

`plan` checks everything that can be known before a framework is imported; `perform` does the work in a temporary
folder, which is gone whatever happens, and writes the bundle when the proof has succeeded.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from edgeferry_converter import calibration as calibrating
from edgeferry_converter import evaluation as evaluating
from edgeferry_converter.batches import check_batches, compare_batches
from edgeferry_converter.bundling import Proof, bundle, check_labels, hash_source, read_labels
from edgeferry_converter.comparison.accuracy import Labelled, open_labelled
from edgeferry_converter.data import ONLY, Data, Samples, check_calibration, open_data
from edgeferry_converter.evaluation import Evaluation
from edgeferry_converter.exhibits import Exhibit, Shown, gather, needs_ranges
from edgeferry_converter.explain import floats
from edgeferry_converter.explain.failures import set_aside
from edgeferry_converter.metadata import Description, describe
from edgeferry_converter.quantize import Job, Outcome, quantize, support
from edgeferry_converter.quantize.calibration.methods import AUTO
from edgeferry_converter.recipe import Recipe, check_keys, plain_name
from edgeferry_converter.sources import HINTED, Source, SourceSpec, detect, open_source
from edgeferry_converter.sources.options import with_options
from edgeferry_converter.trained_ranges import Taken, Trained, check_source, compared, open_trained, take
from edgeferry_converter.verification import check, compare, record
from edgeferry_runtime.artifact_files import artifact_size, companions
from edgeferry_runtime.bundle import Bundle, Probe, check_output
from edgeferry_runtime.errors import (
    ConversionError,
    CorruptFileError,
    EngineError,
    MissingFileError,
    UsageError,
    VerificationError,
)
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.model import load
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Step:
    """What a conversion is doing.

    Attributes:
        name: In words.
        seconds: How long it took; None while it runs.
        warnings: What was seen on the way that need not be right.
    """

    name: str
    seconds: float | None = None
    warnings: tuple[str, ...] = ()


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion that may begin.

    Attributes:
        spec: The source.
        format: Its format.
        output: The bundle's folder.
        recipe: What to do.
        name: The bundle's name.
        calibration: Typical samples, where they were given.
        probe: Samples to verify with, where they were given.
        labels: One name per class; empty where none were given.
        labelled: Samples to measure accuracy on, where they were given.
        trained: Ranges that were trained, where they were given.
    """

    spec: SourceSpec
    format: str
    output: Path
    recipe: Recipe
    name: str
    calibration: Data | None = None
    probe: Data | None = None
    labels: tuple[str, ...] = ()
    labelled: Labelled | None = None
    trained: Trained | None = None


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> Bundle:
    """Make a verified bundle from a trained model.

    Args:
        source: A model file or folder, or ``FILE.py:FACTORY``.
        output: The bundle's folder; an older bundle there is replaced.
        recipe: What to do; without it the defaults.
        progress: Called when a step begins, and again when it has ended.
        **changes: Fields of `Recipe` that replace those of `recipe`.

    Returns:
        The bundle, which can be loaded and called.

    Raises:
        UsageError: For a value that does not fit.
        ArtifactError: For a source that cannot be used.
        DataError: For calibration or probe data that do not fit.
        ConversionError: If a framework refuses the model.
        VerificationError: If the artifact differs from its source, or loses more accuracy than `Recipe.max_drop`
            allows; then nothing is written.
    """
    check_keys("recipe", changes, [f.name for f in fields(Recipe)])
    return perform(plan(source, output, replace(recipe or Recipe(), **changes)), progress)


def plan(source: str | os.PathLike[str], output: str | os.PathLike[str], recipe: Recipe) -> ConversionPlan:
    """Check what can be known before a framework is imported.

    Raises:
        EdgeferryError: As `convert` does.
    """
    target = Path(output)
    spec = SourceSpec.parse(os.fspath(source), recipe.weights, recipe.shape)
    found = detect(spec)
    check_output(target)
    if recipe.weights is not None and not recipe.weights.is_file():
        raise MissingFileError(recipe.weights, "no such weights", "check the path")
    spec = with_options(spec, found, recipe)
    _check_way(spec, found, recipe)
    trained = open_trained(recipe)
    shown = trained.data if trained else None
    calibration = open_data(recipe.calibrate, recipe.preprocess) if recipe.calibrate else shown
    probe = open_data(recipe.probe, recipe.preprocess) if recipe.probe else None
    data = probe or calibration
    return ConversionPlan(
        spec=replace(spec, hints=data.shapes() if data and found in HINTED else {}),
        format=found,
        output=target,
        recipe=recipe,
        name=recipe.name or plain_name(target.absolute().name),
        calibration=calibration,
        probe=probe,
        labels=read_labels(recipe.labels) if recipe.labels else (),
        labelled=open_labelled(recipe.evaluate) if recipe.evaluate else None,
        trained=trained,
    )


def _check_way(spec: SourceSpec, found: str, recipe: Recipe) -> None:
    """Refuse what the source does not lower to, what the format does not have, and static ranges without data."""
    if found in ("tflite", "onnx") and found != recipe.to:
        fix = f"use --to {found}, or give the model that it was made from"
        raise UsageError(f"--to {recipe.to}", f"{spec} is {found} already and lowers to nothing else", fix)
    support.check(recipe)
    shown = recipe.calibrate or recipe.ranges
    if needs_ranges(recipe) and shown is None:
        reason = "needs the range of every activation, and there is no data to take it from"
        fix = "give --calibrate DATA with typical samples, or use --quantize dynamic"
        static = (override for override in recipe.override if override.precision in support.STATIC)
        subject = f"--quantize {recipe.quantize}"
        raise UsageError(subject if recipe.quantize in support.STATIC else next(static, subject), reason, fix)
    if recipe.rounding != Recipe.rounding and shown is None:
        reason = "rounds by what each layer is fed, and there is no data to take it from"
        raise UsageError(f"--rounding {recipe.rounding}", reason, "give --calibrate DATA with typical samples")
    evaluating.check_recipe(recipe)
    if recipe.calibration != Recipe.calibration and not needs_ranges(recipe):
        reason = f"chooses ranges of activations, and --quantize {recipe.quantize} has none"
        raise UsageError(f"--calibration {recipe.calibration}", reason, "leave it out, or use --quantize int8")


def perform(plan: ConversionPlan, progress: Progress | None = None) -> Bundle:
    """Carry out a plan; see `convert`."""
    with scratch() as folder:
        with _step(progress, f"open {plan.spec.path.name} ({plan.format})") as warnings:
            source = open_source(plan.spec)
            warnings.extend(source.warnings)
        check_source(plan.trained, source)
        shown, evaluation = gather(plan, source), evaluating.prepare(plan, source)
        with _step(progress, f"run the source on {_words(shown)}") as seen:
            probes = {key: record(one.samples.path, one.entry, one.samples) for key, one in shown.items()}
            for key, one in shown.items():
                if one.calibration is not None:
                    seen.extend(_examine(plan, one, one.calibration, probes[key]))
        check_labels(plan.recipe.labels, plan.labels, probes.values())
        made = _make_artifact(plan, source, _Way(folder, probes, shown), progress)
        artifact, float_file = made.artifact, made.float_file
        describe(artifact, _description(plan), plan.spec.path)
        with _step(progress, f"verify {sum(map(len, probes.values()))} samples"):
            float_sha256 = floats.keep(float_file) if float_file != artifact else ""
            proof = _prove(plan, source, artifact, _Way(folder, probes, shown), float_sha256)
        if evaluation:
            with _step(progress, str(evaluation)):
                proof = _evaluate(plan, source, artifact, proof, evaluation)
        proof = replace(
            proof,
            float_bytes=artifact_size(float_file),
            tools={**proof.tools, **made.outcome.tools},
            layers=made.outcome.layers,
            rounding=made.outcome.rounding,
            calibration=_describe(shown, made.method),
            trained=made.taken.said,
            warnings=(*warnings, *seen, *made.taken.warnings),
        )
        with _step(progress, "write the bundle") if companions(artifact) else contextlib.nullcontext():
            return bundle(plan, source, artifact, proof)


def _words(shown: Shown) -> str:
    """Say how many samples are run, and where they come from."""
    of = {key: f" of {key}" if key else "" for key in shown}
    return ", ".join(f"{len(one.samples)} samples{of[key]} ({one.origin})" for key, one in shown.items())


def _description(plan: ConversionPlan) -> Description:
    text = f"{plan.spec.path.name} as {plan.recipe.to}, precision {plan.recipe.quantize}"
    name = plan.recipe.name or plan.spec.path.stem  # not the output folder's: the bytes must not depend on it
    return Description(name, text, plan.labels, plan.recipe.preprocess)


@contextlib.contextmanager
def _step(progress: Progress | None, name: str) -> Iterator[list[str]]:
    """Tell of a step's begin and end; what is added to the list that it gives are its warnings."""
    begin = time.perf_counter()
    warnings: list[str] = []
    if progress:
        progress(Step(name))
    yield warnings
    if progress:
        progress(Step(name, time.perf_counter() - begin, tuple(warnings)))


@dataclass(frozen=True)
class _Way:
    """What leads from a source to its artifact: a folder, and by signature the golden outputs and what was shown."""

    folder: Path
    probes: Mapping[str, Probe]
    shown: Shown


class _Made(NamedTuple):
    """The float file, the artifact, what was done, by which calibration method, and which trained ranges it took."""

    float_file: Path
    artifact: Path
    outcome: Outcome = Outcome({})
    method: Mapping[str, Any] = {}
    taken: Taken = Taken()


def _make_artifact(plan: ConversionPlan, source: Source, way: _Way, progress: Progress | None) -> _Made:
    """Lower, and quantize where that is asked for."""
    recipe = plan.recipe
    quantized = recipe.quantize != "none" or bool(recipe.override)
    artifact = way.folder / f"model.{recipe.to}"
    lowered = way.folder / f"float.{recipe.to}" if quantized else artifact
    with _step(progress, f"lower to {recipe.to}"):
        source.lower(recipe.to, lowered)
    if not quantized:
        return _Made(artifact, artifact)
    job = _job(plan, lowered, artifact, way.shown)
    with _step(progress if plan.trained else None, "match trained ranges") as warnings:
        taken = take(plan.trained, recipe.to, job, source)
        warnings.extend(taken.matched.warnings())
    job = replace(job, known=taken.matched.ranges)
    way_of_rounding = f", weights by {recipe.rounding}" if recipe.rounding != Recipe.rounding else ""
    with _step(progress, f"quantize to {recipe.quantize}{way_of_rounding}") as warnings:
        made = _quantize(recipe, job, way.probes)
        taken = compared(taken, job)
        warnings.extend(taken.otherwise)
    return _Made(lowered, artifact, *made, taken)


def _quantize(recipe: Recipe, job: Job, probes: Mapping[str, Probe]) -> tuple[Outcome, Mapping[str, Any]]:
    if recipe.calibration == AUTO:
        return calibrating.best(recipe.to, job, probes)
    return quantize(recipe.to, job), {"method": recipe.calibration}


def _job(plan: ConversionPlan, lowered: Path, artifact: Path, shown: Shown) -> Job:
    """Say what the quantizer is to do."""
    recipe = plan.recipe
    samples = {key: one.calibration for key, one in shown.items() if one.calibration is not None}
    return Job(
        lowered,
        artifact,
        recipe.quantize,
        recipe.io_dtype,
        samples.get(ONLY),
        str(plan.spec),
        block_size=recipe.block_size,
        activations=recipe.activations,
        overrides=recipe.override,
        aeq_recipe=recipe.aeq_recipe,
        calibration=recipe.calibration,
        rounding=recipe.rounding,
        signatures={key: found for key, found in samples.items() if key != ONLY},
    )


def _examine(plan: ConversionPlan, shown: Exhibit, samples: Samples, probe: Probe) -> tuple[str, ...]:
    """Refuse a calibration set that cannot be used, and say what is odd about one that can."""
    ranges = check_calibration(samples)
    known = shown.origin == "calibration"
    own = probe if known else record(samples.path, shown.entry, samples.take(plan.recipe.samples))
    other = probe if shown.origin == "probe" else None
    expected, whose = calibrating.expected_ranges(other, plan.recipe.preprocess, ranges)
    return calibrating.examine(samples, ranges, own, expected, whose)


def _describe(shown: Shown, method: Mapping[str, Any]) -> dict[str, Any]:
    """Say what was calibrated with, for the manifest; nothing where nothing was."""
    counts = {key: one.calibration for key, one in shown.items() if one.calibration is not None}
    if not counts:
        return {}
    path = next(iter(counts.values())).path
    return {"sha256": hash_source(path), "samples": sum(map(len, counts.values())), **method}


def _prove(plan: ConversionPlan, source: Source, artifact: Path, way: _Way, float_sha256: str) -> Proof:
    """Run every signature of the artifact in its engine, first in a child process, and compare every output."""
    recipe = plan.recipe
    with _runs_in_its_engine(plan):
        try_in_child(artifact)
        proofs = {key: _compare(artifact, key, one, way.probes[key]) for key, one in way.shown.items()}
    key, proof = next(iter(proofs.items()))
    others = {other: one for other, one in proofs.items() if other != key}
    proof = replace(proof, signature=key, others=others, float_sha256=float_sha256)
    subject = _subject(plan)
    try:
        check(subject, [e.of(k) for k, one in proofs.items() for e in one.errors], recipe.limits, recipe.quantize)
        batches = tuple(e.of(k) for k, one in proofs.items() for e in one.batch or ())
        check_batches(subject, batches, recipe.limits, recipe.quantize)
    except VerificationError as error:
        raise set_aside(plan, source, artifact, proof, error) from None
    return proof


def _subject(plan: ConversionPlan) -> str:
    """Say what was converted to what."""
    precision = "float32" if plan.recipe.quantize == "none" else plan.recipe.quantize
    return f"{plan.spec} as {plan.recipe.to} {precision}"


def _evaluate(plan: ConversionPlan, source: Source, artifact: Path, proof: Proof, evaluation: Evaluation) -> Proof:
    """Measure the accuracy of source and artifact, and refuse to lose more of it than is allowed."""
    found = evaluating.evaluate(evaluation, artifact, proof.signature)
    proof = replace(proof, accuracy=found)
    try:
        evaluating.check(_subject(plan), found, plan.recipe.max_drop)
    except VerificationError as error:
        raise set_aside(plan, source, artifact, proof, error) from None
    return proof


def _compare(artifact: Path, signature: str, shown: Exhibit, probe: Probe) -> Proof:
    """Compare every output of one signature with the source's."""
    entry = shown.entry
    with load(artifact, signature=signature or None) as model:
        inputs, outputs = _ordered(model.inputs, entry.inputs), _ordered(model.outputs, entry.outputs)
        errors, batch = compare(probe, model), compare_batches(entry, model, inputs, probe)
        tools = {model.engine: model.engine_version}
    return Proof(probe, errors, inputs, outputs, origin=shown.origin, tools=tools, batch=batch)


@contextlib.contextmanager
def _runs_in_its_engine(plan: ConversionPlan) -> Iterator[None]:
    """Say of an artifact that the engine refuses which source it came from, and not its temporary path."""
    try:
        yield
    except (EngineError, CorruptFileError) as error:
        other = "none" if plan.recipe.quantize != "none" else "dynamic, or another --to"
        reason = f"became an artifact that its engine refuses: {error.reason}"
        raise ConversionError(plan.spec, reason, f"use --quantize {other}") from error


def _ordered(found: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Bring the artifact's tensors into the source's order; they must be the same by name."""
    by_name = {spec.name: spec for spec in found}
    names = [spec.name for spec in wanted]
    if sorted(by_name) != sorted(names):
        reason = f"has {', '.join(by_name)}, and its source {', '.join(names)}"
        raise ConversionError("artifact", reason, "report this: names must survive")
    return tuple(by_name[name] for name in names)
