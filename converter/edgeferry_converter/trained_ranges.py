"""Trained ranges within a conversion: read with the plan, matched with the float artifact, told in the bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.data import Data
from edgeferry_converter.exhibits import needs_ranges
from edgeferry_converter.explain.network import Stored, open_network
from edgeferry_converter.quantize import Job, observe
from edgeferry_converter.quantize.trained import Matched, match
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.sources import Source
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.grid import Ranges

SAME_STEP = 5e-3
"""Steps that differ by less are the same: over 256 of them that is about one."""


@dataclass(frozen=True)
class Trained:
    """A file of trained ranges.

    Attributes:
        path: The file.
        ranges: What is in it.
        data: Its samples, not yet bound to a model.
    """

    path: Path
    ranges: Ranges
    data: Data


@dataclass(frozen=True)
class Taken:
    """What became of trained ranges.

    Attributes:
        matched: Which tensors took which.
        said: For the manifest: ``sha256`` of the file, how many ``layers`` it has, how many were ``found``, and by
            how many ``activations`` their ranges were taken. Empty where there was no file.
        otherwise: Which of them the artifact does not compute with, in words.
    """

    matched: Matched = field(default_factory=Matched)
    said: dict[str, Any] = field(default_factory=dict)
    otherwise: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What did not find its place."""
        return (*self.matched.warnings(), *self.otherwise)


def open_trained(recipe: Recipe) -> Trained | None:
    """Read a recipe's trained ranges; None where it has none.

    Raises:
        UsageError: If the precision has no ranges of activations.
        MissingFileError: If there is no such file.
        DataError: If it is damaged, or holds no ranges or no samples.
    """
    from edgeferry_converter.compress.ranges_file import load

    if recipe.ranges is None:
        return None
    subject = f"--ranges {recipe.ranges}"
    if not needs_ranges(recipe):
        reason = f"tells ranges of activations, and --quantize {recipe.quantize} has none"
        raise UsageError(subject, reason, "leave it out, or use --quantize int8")
    ranges = load(recipe.ranges)
    if not ranges.ranges or not all(map(len, ranges.samples.values())) or not ranges.samples:
        what = "samples" if ranges.ranges else "ranges"
        raise DataError(recipe.ranges, f"holds no {what}", "train with quantization of activations, such as int8")
    return Trained(recipe.ranges, ranges, Data(recipe.ranges, ranges.samples))


def check_source(trained: Trained | None, source: Source) -> None:
    """Refuse trained ranges for a source of several signatures: which one they are of is not known.

    Raises:
        UsageError: Naming the signatures.
    """
    if trained is not None and source.signatures:
        reason = f"is of one model, and the source has the signatures {', '.join(source.signatures)}"
        raise UsageError(f"--ranges {trained.path}", reason, "choose one with --signature")


def take(trained: Trained | None, to: str, job: Job, source: Source) -> Taken:
    """Run the samples of trained ranges through a job's float artifact and know its activations again.

    Args:
        trained: None takes nothing.
        to: The artifact's format.
        job: What is to be quantized.
        source: The model, of one signature.

    Raises:
        DataError: If a sample does not fit the model.
        ConversionError: If the artifact is quantized already, or its engine refuses it.
    """
    if trained is None:
        return Taken()
    ranges = trained.ranges
    seen = observe(to, replace(job, samples=trained.data.bind(source.inputs)), sums=True)
    matched = match(ranges.ranges, ranges.moments, seen)
    return Taken(
        matched,
        {
            "sha256": sha256_file(trained.path),
            "layers": len(matched.tensors),
            "found": len(matched.tensors) - len(matched.missing),
            "activations": len(matched.ranges),
        },
    )


def compared(taken: Taken, job: Job) -> Taken:
    """Find out which trained ranges an artifact with 8-bit activations does not compute with.

    Operators have rules of their own: a pooling stores what its input is stored as, a softmax 0 to 1; and what is
    fused into the next operator is stored nowhere.

    Args:
        taken: What the job knew.
        job: What was done.

    Raises:
        ArtifactError: If the artifact cannot be read.
    """
    matched = taken.matched
    if not matched.ranges or job.levels != 256:
        return taken
    network, found = open_network(job.target), []
    for layer, tensors in matched.tensors.items():
        seen = [network.stored(name) or network.stored(f"{name}_quantized") for name in tensors]
        if tensors and (words := _otherwise(seen, matched.ranges[tensors[0]])):
            found.append(f"{layer} ({words})")
    count = f"{len(found)} of {len(matched.tensors)} trained ranges"
    said = (f"{count} are not what the artifact stores: {', '.join(found)}",) if found else ()
    return replace(taken, otherwise=said)


def _otherwise(seen: Sequence[Stored | None], limits: tuple[float, float]) -> str:
    """Say how tensors are stored where none of them is stored with these limits; else nothing."""
    trained = (max(limits[1], 0.0) - min(limits[0], 0.0)) / 255
    steps = [max(stored.quantization.scale) for stored in seen if stored is not None]
    if any(math.isclose(step, trained, rel_tol=SAME_STEP) for step in steps):
        return ""
    return f"steps of {steps[0]:.4g}, trained {trained:.4g}" if steps else "fused, or float"
