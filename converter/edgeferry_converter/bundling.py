"""What a bundle says: the manifest, the recipe and the labels beside a proven artifact."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter import evaluation
from edgeferry_converter.batches import describe
from edgeferry_converter.comparison.accuracy import Accuracy
from edgeferry_converter.data import declared_range
from edgeferry_converter.quantize import tflite_recipe
from edgeferry_converter.sources import Entry, Source
from edgeferry_runtime import __version__
from edgeferry_runtime.artifact_files import artifact_sha256, companions, sha256_file
from edgeferry_runtime.bundle import LABELS, PROBE, RECIPE, Bundle, Manifest, Probe, SignatureSpec, write_bundle
from edgeferry_runtime.errors import DataError, MissingFileError
from edgeferry_runtime.numerics import OutputError, is_distribution
from edgeferry_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.conversion import ConversionPlan


@dataclass(frozen=True)
class Proof:
    """What verification found.

    Attributes:
        probe: What the source was fed, and what it answered.
        errors: The distance of each output.
        inputs: The artifact's inputs, in the source's order.
        outputs: The artifact's outputs, in the source's order.
        origin: Where the inputs came from: ``probe``, ``calibration`` or ``random``.
        float_bytes: Size of the artifact before quantization.
        float_sha256: Its hash, under which it was kept; empty where nothing was quantized.
        tools: Versions of the engine and the quantizer.
        layers: How many layers with weights store them as what.
        rounding: How many layers with integer weights were rounded how, where that is not ``nearest`` alone.
        calibration: The calibration set's hash and number of samples, and the method; empty where there was none.
        trained: What became of trained ranges; empty where none were given.
        warnings: What was seen of the calibration set that need not be right.
        batch: The distance of each output on several samples at once; None where the batch is fixed.
        signature: The name of the signature that all this is of, where there are several.
        others: What was found of the other ones, by name.
        accuracy: What labelled data say of source and artifact; None where there are none.
    """

    probe: Probe
    errors: tuple[OutputError, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    origin: str = "random"
    float_bytes: int = 0
    float_sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    rounding: Mapping[str, int] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    batch: tuple[OutputError, ...] | None = None
    signature: str = ""
    others: Mapping[str, Proof] = field(default_factory=dict)
    accuracy: Accuracy | None = None

    @property
    def signatures(self) -> Mapping[str, Proof]:
        """What was found of each signature by name, this one first; empty where there are not several."""
        return {self.signature: self, **self.others} if self.others else {}


def bundle(plan: ConversionPlan, source: Source, artifact: Path, proof: Proof) -> Bundle:
    """Write the bundle of a proven artifact, whole or not at all.

    Raises:
        OutputExistsError: If the output folder exists and is not ours.
    """
    recipe = plan.recipe
    probes = {key: f"probe-{i}.npz" if i else PROBE for i, key in enumerate(proof.signatures)}
    manifest = Manifest(
        name=plan.name,
        artifact=artifact.name,
        format=recipe.to,
        precision=recipe.quantize,
        inputs=proof.inputs,
        outputs=proof.outputs,
        source=_describe(plan, source),
        tolerance=recipe.limits,
        verification=_report(proof, source, recipe.seed),
        tools={"edgeferry": __version__, **source.tools, **proof.tools},
        preprocess=recipe.preprocess,
        signatures={key: SignatureSpec(one.inputs, one.outputs, probes[key]) for key, one in proof.signatures.items()},
    )

    def fill(parts: Path) -> None:
        shutil.copyfile(artifact, parts / artifact.name)
        for file in companions(artifact):
            shutil.move(file, parts / file.name)
        beside = artifact.with_name(tflite_recipe.FILE)
        if beside.is_file():
            shutil.copyfile(beside, parts / beside.name)
        proof.probe.save(parts / PROBE)
        for key, other in proof.others.items():
            other.probe.save(parts / probes[key])
        (parts / RECIPE).write_text(recipe.to_toml(plan.output.absolute()), encoding="utf-8")
        if plan.labels:
            (parts / LABELS).write_text("\n".join(plan.labels) + "\n", encoding="utf-8")

    return write_bundle(plan.output, manifest, fill)


def _describe(plan: ConversionPlan, source: Source) -> dict[str, Any]:
    spec = plan.spec
    described: dict[str, Any] = {
        "name": f"{spec.path.name}:{spec.factory}" if spec.factory else spec.path.name,
        "format": plan.format,
        "framework": source.framework,
        "sha256": artifact_sha256(spec.path) if plan.format == "onnx" else hash_source(spec.path),
    }
    if source.notes:
        described["notes"] = list(source.notes)
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


def _report(proof: Proof, source: Source, seed: int) -> dict[str, Any]:
    """Say what was compared, and what was seen on the way."""
    report: dict[str, Any] = {"float_bytes": proof.float_bytes}
    if proof.float_sha256:
        report["float_sha256"] = proof.float_sha256
    if proof.layers:
        report["layers"] = dict(proof.layers)
    if proof.rounding:
        report["rounding"] = dict(proof.rounding)
    if proof.calibration:
        report["calibration"] = dict(proof.calibration)
    if proof.trained:
        report["trained"] = dict(proof.trained)
    if proof.warnings:
        report["warnings"] = list(proof.warnings)
    report |= _figures(proof, source, seed)
    if proof.accuracy:
        report["accuracy"] = evaluation.describe(proof.accuracy)
    if proof.others:
        entries = source.signatures
        report["signatures"] = {key: _figures(one, entries[key], seed) for key, one in proof.signatures.items()}
    return report


def _figures(proof: Proof, entry: Entry, seed: int) -> dict[str, Any]:
    """Say of one signature what was compared; random inputs are called so, with their ranges."""
    figures: dict[str, Any] = {"probe": proof.origin, "samples": len(proof.probe)}
    if proof.origin == "random":
        said = ", ".join(f"{spec.name} in {_range(spec)}" for spec in entry.inputs)
        figures["note"] = f"random inputs of seed {seed} ({said}), because no data was given; --probe gives real ones"
    figures |= describe(proof.batch)
    return {**figures, "outputs": [error.to_dict() for error in proof.errors]}


def _range(spec: TensorSpec) -> str:
    low, high = declared_range(spec)
    return f"{low:g} to {high:g}"


def read_labels(path: Path) -> tuple[str, ...]:
    """Read one class name a line.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no text, or empty.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such labels", "check the path")
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except ValueError as error:
        raise DataError(path, f"is no UTF-8 text ({error})", "give one class name a line") from error
    if not any(labels):
        raise DataError(path, "holds no labels", "give one class name a line")
    return labels


def check_labels(path: Path | None, labels: Sequence[str], probes: Iterable[Probe]) -> None:
    """Refuse labels of another number than the classes of every output, of any signature, that is a distribution.

    Raises:
        DataError: Naming those outputs.
    """
    outputs = [(name, values) for probe in probes for name, values in probe.outputs.items()]
    classes = {name: values.shape[-1] for name, values in outputs if is_distribution(values)}
    if labels and classes and len(labels) not in classes.values():
        listed = ", ".join(f"{name!r} has {count}" for name, count in classes.items())
        raise DataError(path, f"has {len(labels)} labels, and the output {listed} classes", "give one label a class")
