"""Artifacts that failed their proof, set aside so that they can be explained: the output folder stays untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeferry_converter.bundling import Proof, bundle
from edgeferry_converter.explain.floats import folder
from edgeferry_converter.sources import Source
from edgeferry_runtime.errors import OutputExistsError, VerificationError

if TYPE_CHECKING:
    from edgeferry_converter.conversion import ConversionPlan


def set_aside(
    plan: ConversionPlan, source: Source, artifact: Path, proof: Proof, error: VerificationError
) -> VerificationError:
    """Write the bundle of a quantized artifact that failed into the cache, in place of the last one of that name.

    Returns:
        The error, whose way out names that bundle; as it was where nothing was quantized or could be written.
    """
    if plan.recipe.quantize == "none":
        return error
    path = folder().with_name("failed") / plan.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        bundle(replace(plan, output=path), source, artifact, proof)
    except (OSError, OutputExistsError):
        return error
    return VerificationError(error.subject, error.reason, f"see which layers: ferry explain {path}; or {error.fix}")
