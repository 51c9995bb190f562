"""The way of one model: open, run, lower, quantize, verify, bundle.

`plan` checks everything that can be known before a framework is imported; `perform` does the work in a temporary
folder, which is gone whatever happens, and writes the bundle when the proof has succeeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeferry_converter.data import Data, Samples, check_calibration, declared_range, open_data, random_samples
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.recipe import Recipe, check_keys, plain_name
from edgeferry_converter.sources import Source, SourceSpec, detect, open_source
from edgeferry_converter.verification import check, compare, record
from edgeferry_runtime import __version__
from edgeferry_runtime.bundle import (
    LABELS,
    PROBE,
    RECIPE,
    Bundle,
    Manifest,
    Probe,
    check_output,
    sha256_file,
    write_bundle,
)
from edgeferry_runtime.errors import ConversionError, DataError, MissingFileError, UsageError
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.numerics import OutputError, is_distribution
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


@dataclass(frozen=True)
class _Proof:
    """What verification found."""

    probe: Probe
    errors: tuple[OutputError, ...]
    origin: str


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
    if found in ("tflite", "onnx") and found != recipe.to:
        fix = f"use --to {found}, or give the model that it was made from"
        raise UsageError(f"--to {recipe.to}", f"{spec} is {found} already and lowers to nothing else", fix)
    if recipe.quantize == "int8" and recipe.calibrate is None:
        reason = "needs the range of every activation, and there is no data to take it from"
        fix = "give --calibrate DATA with typical samples, or use --quantize dynamic"
        raise UsageError("--quantize int8", reason, fix)
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
        labels=_read_labels(recipe.labels) if recipe.labels else (),
    )


def perform(plan: ConversionPlan, progress: Progress | None = None) -> Bundle:
    """Carry out a plan; see `convert`."""
    recipe = plan.recipe
    with tempfile.TemporaryDirectory(prefix="edgeferry-") as folder:
        lowered, artifact = Path(folder) / f"float.{recipe.to}", Path(folder) / f"model.{recipe.to}"
        with _step(progress, f"open {plan.spec.path.name} ({plan.format})"):
            source = open_source(plan.spec)
        samples, origin = _probe_samples(plan, source)
        calibration = _calibration(plan, source)
        with _step(progress, f"run the source on {len(samples)} samples ({origin})"):
            probe = record(samples.path, source, samples)
        _check_labels(plan, probe)
        with _step(progress, f"lower to {recipe.to}"):
            source.lower(recipe.to, lowered)
        tools: Mapping[str, str] = {}
        if recipe.quantize == "none":
            lowered.rename(artifact)
        else:
            with _step(progress, f"quantize to {recipe.quantize}"):
                tools = quantize(
                    recipe.to, Job(lowered, artifact, recipe.quantize, recipe.io_dtype, calibration, str(plan.spec))
                )
        with _step(progress, f"verify {len(probe)} samples"):
            manifest, proof = _verify(plan, source, artifact, _Proof(probe, (), origin))
        float_bytes = lowered.stat().st_size if lowered.exists() else artifact.stat().st_size
        verification = {**manifest.verification, "float_bytes": float_bytes}
        manifest = replace(manifest, tools={**manifest.tools, **source.tools, **tools}, verification=verification)
        return write_bundle(plan.output, manifest, lambda parts: _fill(plan, parts, artifact, proof.probe))


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


def _calibration(plan: ConversionPlan, source: Source) -> Samples | None:
    if plan.calibration is None or plan.recipe.quantize != "int8":
        return None
    samples = plan.calibration.bind(source.inputs)
    check_calibration(samples)
    return samples


def _verify(plan: ConversionPlan, source: Source, artifact: Path, proof: _Proof) -> tuple[Manifest, _Proof]:
    """Run the artifact in its engine, first in a child process, and compare every output."""
    recipe = plan.recipe
    try_in_child(artifact)
    with load(artifact) as model:
        inputs, outputs = _ordered(model.inputs, source.inputs), _ordered(model.outputs, source.outputs)
        proof = replace(proof, errors=compare(proof.probe, model))
        engine = _engine(model)
    precision = "float32" if recipe.quantize == "none" else recipe.quantize
    check(f"{plan.spec} as {recipe.to} {precision}", proof.errors, recipe.limits, recipe.quantize)
    manifest = Manifest(
        name=plan.name,
        artifact=artifact.name,
        format=recipe.to,
        precision=recipe.quantize,
        inputs=inputs,
        outputs=outputs,
        source=_describe(plan, source),
        tolerance=recipe.limits,
        verification=_report(proof, source.inputs, recipe.seed),
        tools={"edgeferry": __version__, **engine},
        preprocess=recipe.preprocess,
    )
    return manifest, proof


def _engine(model: Model) -> dict[str, str]:
    return {model.engine: model.engine_version}


def _ordered(found: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Bring the artifact's tensors into the source's order; they must be the same by name."""
    by_name = {spec.name: spec for spec in found}
    names = [spec.name for spec in wanted]
    if sorted(by_name) != sorted(names):
        reason = f"has {', '.join(by_name)}, and its source {', '.join(names)}"
        raise ConversionError("artifact", reason, "report this: names must survive")
    return tuple(by_name[name] for name in names)


def _describe(plan: ConversionPlan, source: Source) -> dict[str, Any]:
    spec = plan.spec
    described: dict[str, Any] = {
        "name": f"{spec.path.name}:{spec.factory}" if spec.factory else spec.path.name,
        "format": plan.format,
        "framework": source.framework,
        "sha256": hash_source(spec.path),
    }
    if spec.weights is not None:
        described["weights"] = {"name": spec.weights.name, "sha256": sha256_file(spec.weights)}
    return described


def hash_source(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's relative paths and file hashes, as 64 hex digits."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _report(proof: _Proof, inputs: Sequence[TensorSpec], seed: int) -> dict[str, Any]:
    report: dict[str, Any] = {"probe": proof.origin, "samples": len(proof.probe)}
    if proof.origin == "random":
        ranges = {spec.name: declared_range(spec) for spec in inputs}
        said = ", ".join(f"{name} in {low:g} to {high:g}" for name, (low, high) in ranges.items())
        report["note"] = f"random inputs of seed {seed} ({said}), because no data was given; --probe gives real ones"
    return {**report, "outputs": [error.to_dict() for error in proof.errors]}


def _fill(plan: ConversionPlan, parts: Path, artifact: Path, probe: Probe) -> None:
    shutil.copyfile(artifact, parts / artifact.name)
    probe.save(parts / PROBE)
    (parts / RECIPE).write_text(plan.recipe.to_toml(plan.output.absolute()), encoding="utf-8")
    if plan.labels:
        (parts / LABELS).write_text("\n".join(plan.labels) + "\n", encoding="utf-8")


def _read_labels(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise MissingFileError(path, "no such labels", "check the path")
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except ValueError as error:
        raise DataError(path, f"is no UTF-8 text ({error})", "give one class name a line") from error
    if not any(labels):
        raise DataError(path, "holds no labels", "give one class name a line")
    return labels


def _check_labels(plan: ConversionPlan, probe: Probe) -> None:
    """Refuse labels of another number than the classes of every output that is a distribution."""
    classes = {name: values.shape[-1] for name, values in probe.outputs.items() if is_distribution(values)}
    if plan.labels and classes and len(plan.labels) not in classes.values():
        listed = ", ".join(f"{name!r} has {count}" for name, count in classes.items())
        reason = f"has {len(plan.labels)} labels, and the output {listed} classes"
        raise DataError(plan.recipe.labels, reason, "give one label a class")
