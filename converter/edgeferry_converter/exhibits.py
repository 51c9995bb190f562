"""What each signature of a source is shown: samples to verify it with, and samples to take ranges from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeferry_converter.data import ONLY, Data, Samples, random_samples
from edgeferry_converter.quantize import support, tflite_recipe
from edgeferry_converter.quantize.rounding import GPTQ
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.signature_data import by_signature
from edgeferry_converter.sources import Entry, Source
from edgeferry_runtime.errors import DataError

if TYPE_CHECKING:
    from edgeferry_converter.conversion import ConversionPlan


@dataclass(frozen=True)
class Exhibit:
    """What one signature is shown.

    Attributes:
        entry: The signature.
        samples: What it is verified with.
        origin: Where they come from: ``probe``, ``calibration`` or ``random``.
        calibration: What ranges are taken from, where the precision needs any.
    """

    entry: Entry
    samples: Samples
    origin: str
    calibration: Samples | None = None


Shown = Mapping[str, Exhibit]
"""By signature, the primary one first; `ONLY` stands for that of a source which has not several."""


def gather(plan: ConversionPlan, source: Source) -> Shown:
    """Give every signature the samples that are for it.

    Raises:
        DataError: If data fit no input, or a signature that needs calibration data has none.
    """
    entries: Mapping[str, Entry] = source.signatures or {ONLY: source}
    probe, calibration = (_bind(data, source) for data in (plan.probe, plan.calibration))
    if plan.calibration is None or not needs_samples(plan.recipe):
        ranges: Mapping[str, Samples] = {}
    else:
        ranges = calibration
        _check_complete(plan.calibration, entries, ranges)
    found = {key: _choose(plan, entry, (probe.get(key), calibration.get(key))) for key, entry in entries.items()}
    return {key: Exhibit(entry, *found[key], ranges.get(key)) for key, entry in entries.items()}


def needs_ranges(recipe: Recipe) -> bool:
    """Tell whether a recipe needs the range of any activation."""
    if recipe.aeq_recipe is not None:
        return tflite_recipe.needs_ranges(tflite_recipe.read(recipe.aeq_recipe))
    return support.needs_ranges(recipe.quantize, recipe.override)


def needs_samples(recipe: Recipe) -> bool:
    """Tell whether quantization runs the float model on samples."""
    return needs_ranges(recipe) or recipe.rounding == GPTQ


def _bind(data: Data | None, source: Source) -> Mapping[str, Samples]:
    if data is None:
        return {}
    return by_signature(data, source.signatures) if source.signatures else {ONLY: data.bind(source.inputs)}


def _check_complete(data: Data, entries: Mapping[str, Entry], found: Mapping[str, Samples]) -> None:
    for key, entry in entries.items():
        if key not in found:
            names = ", ".join(f"{key}/{spec.name}" for spec in entry.inputs)
            reason = f"has nothing for the signature {key!r}, whose ranges are needed as well"
            raise DataError(data.path, reason, f"add {names}, or choose what is converted with --signature")


def _choose(plan: ConversionPlan, entry: Entry, given: tuple[Samples | None, Samples | None]) -> tuple[Samples, str]:
    """Choose what to verify with: the probe, else the calibration data, else seeded random values."""
    recipe = plan.recipe
    for samples, origin in zip(given, ("probe", "calibration"), strict=True):
        if samples is not None:
            return samples.take(recipe.samples), origin
    return random_samples(entry.inputs, recipe.samples, recipe.seed, recipe.shape), "random"
