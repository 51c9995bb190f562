"""The way of one model: open, run, lower, quantize, verify, bundle.

`plan` checks everything that can be known before a framework is imported; `perform` does the work in a temporary
folder, which is gone whatever happens, and writes the bundle when the proof has succeeded.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeferry_converter.bundling import Proof, bundle, check_labels, read_labels
from edgeferry_converter.data import Data, Samples, check_calibration, open_data, random_samples
from edgeferry_converter.metadata import Description, describe
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.recipe import Recipe, check_keys, plain_name
from edgeferry_converter.sources import Source, SourceSpec, detect, open_source
from edgeferry_converter.verification import check, compare, record
from edgeferry_runtime.bundle import Bundle, Probe, check_output
from edgeferry_runtime.errors import ConversionError, CorruptFileError, EngineError, MissingFileError, UsageError
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.model import load
from edgeferry_runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Step:
    """What a conversion is doing.

    Attributes:
        name: In words.
        seconds: How long it took; None while it runs.
    """

    name: str
    seconds: float | None = None


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
    """

    spec: SourceSpec
    format: str
    output: Path
    recipe: Recipe
    name: str
    calibration: Data | None = None
    probe: Data | None = None
    labels: tuple[str, ...] = ()


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
        VerificationError: If the artifact differs from its source; then nothing is written.
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
    _check_way(spec, found, recipe)
    calibration = open_data(recipe.calibrate, recipe.preprocess) if recipe.calibrate else None
    probe = open_data(recipe.probe, recipe.preprocess) if recipe.probe else None
    data = probe or calibration
    return ConversionPlan(
        spec=replace(spec, hints=data.shapes() if data and found == "factory" else {}),
        format=found,
        output=target,
        recipe=recipe,
        name=recipe.name or plain_name(target.absolute().name),
        calibration=calibration,
        probe=probe,
        labels=read_labels(recipe.labels) if recipe.labels else (),
    )


def _check_way(spec: SourceSpec, found: str, recipe: Recipe) -> None:
    """Refuse what the source does not lower to, and int8 without data."""
    if found in ("tflite", "onnx") and found != recipe.to:
        fix = f"use --to {found}, or give the model that it was made from"
        raise UsageError(f"--to {recipe.to}", f"{spec} is {found} already and lowers to nothing else", fix)
    if recipe.quantize == "int8" and recipe.calibrate is None:
        reason = "needs the range of every activation, and there is no data to take it from"
        fix = "give --calibrate DATA with typical samples, or use --quantize dynamic"
        raise UsageError("--quantize int8", reason, fix)


def perform(plan: ConversionPlan, progress: Progress | None = None) -> Bundle:
    """Carry out a plan; see `convert`."""
    with tempfile.TemporaryDirectory(prefix="edgeferry-") as folder:
        with _step(progress, f"open {plan.spec.path.name} ({plan.format})"):
            source = open_source(plan.spec)
        samples, origin = _probe_samples(plan, source)
        with _step(progress, f"run the source on {len(samples)} samples ({origin})"):
            probe = record(samples.path, source, samples)
        check_labels(plan.recipe.labels, plan.labels, probe)
        float_file, artifact, tools = _make_artifact(plan, source, Path(folder), progress)
        describe(artifact, _description(plan), plan.spec.path)
        with _step(progress, f"verify {len(probe)} samples"):
            proof = _prove(plan, source, artifact, probe)
        proof = replace(proof, origin=origin, float_bytes=float_file.stat().st_size, tools={**proof.tools, **tools})
        return bundle(plan, source, artifact, proof)


def _description(plan: ConversionPlan) -> Description:
    text = f"{plan.spec.path.name} as {plan.recipe.to}, precision {plan.recipe.quantize}"
    return Description(plan.name, text, plan.labels, plan.recipe.preprocess)


@contextlib.contextmanager
def _step(progress: Progress | None, name: str) -> Iterator[None]:
    begin = time.perf_counter()
    if progress:
        progress(Step(name))
    yield
    if progress:
        progress(Step(name, time.perf_counter() - begin))


def _probe_samples(plan: ConversionPlan, source: Source) -> tuple[Samples, str]:
    """Choose what to verify with: the probe, else the calibration data, else seeded random values."""
    recipe = plan.recipe
    for data, origin in ((plan.probe, "probe"), (plan.calibration, "calibration")):
        if data is not None:
            return data.bind(source.inputs).take(recipe.samples), origin
    return random_samples(source.inputs, recipe.samples, recipe.seed, recipe.shape), "random"


def _make_artifact(
    plan: ConversionPlan, source: Source, folder: Path, progress: Progress | None
) -> tuple[Path, Path, dict[str, str]]:
    """Lower, and quantize where that is asked for; return the float file, the artifact and the quantizer's version."""
    recipe = plan.recipe
    calibration = _calibration(plan, source)
    lowered, artifact = folder / f"float.{recipe.to}", folder / f"model.{recipe.to}"
    with _step(progress, f"lower to {recipe.to}"):
        source.lower(recipe.to, lowered)
    if recipe.quantize == "none":
        artifact = lowered.rename(artifact)
        return artifact, artifact, {}
    with _step(progress, f"quantize to {recipe.quantize}"):
        job = Job(lowered, artifact, recipe.quantize, recipe.io_dtype, calibration, str(plan.spec))
        return lowered, artifact, quantize(recipe.to, job)


def _calibration(plan: ConversionPlan, source: Source) -> Samples | None:
    if plan.calibration is None or plan.recipe.quantize != "int8":
        return None
    samples = plan.calibration.bind(source.inputs)
    check_calibration(samples)
    return samples


def _prove(plan: ConversionPlan, source: Source, artifact: Path, probe: Probe) -> Proof:
    """Run the artifact in its engine, first in a child process, and compare every output."""
    recipe = plan.recipe
    with _runs_in_its_engine(plan):
        try_in_child(artifact)
        with load(artifact) as model:
            inputs, outputs = _ordered(model.inputs, source.inputs), _ordered(model.outputs, source.outputs)
            errors = compare(probe, model)
            engine = {model.engine: model.engine_version}
    precision = "float32" if recipe.quantize == "none" else recipe.quantize
    check(f"{plan.spec} as {recipe.to} {precision}", errors, recipe.limits, recipe.quantize)
    return Proof(probe, errors, inputs, outputs, tools=engine)


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
