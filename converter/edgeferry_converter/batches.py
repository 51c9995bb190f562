"""Proof of a dynamic batch: the artifact against its source on more samples at once than one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import numpy as np

from edgeferry_converter.verification import Runnable, check
from edgeferry_runtime.bundle import Probe
from edgeferry_runtime.errors import ConversionError, DataError, EngineError
from edgeferry_runtime.numerics import OutputError, Tolerance, compare_output
from edgeferry_runtime.tensors import Array, TensorSpec

BATCH = 3
"""Neither 1 nor 2, which exporters like to take for constants."""


def compare_batches(
    source: Runnable, model: Runnable, inputs: tuple[TensorSpec, ...], probe: Probe
) -> tuple[OutputError, ...] | None:
    """Run source and artifact on one batch of `BATCH` probe samples, and measure the distance of every output.

    Inputs whose batch is fixed are fed the first sample's value.

    Args:
        source: What holds the truth.
        model: The artifact.
        inputs: The artifact's inputs.
        probe: Samples, each a batch of one.

    Returns:
        None where no input has a dynamic batch, or where the source itself refuses such a batch.

    Raises:
        ConversionError: If the artifact refuses the batch, or answers in another shape.
    """
    if not any(spec.shape[:1] == (-1,) for spec in inputs):
        return None
    feeds = _batch(inputs, probe)
    try:
        expected = source.run(feeds)
    except (ConversionError, DataError, EngineError):
        return None
    try:
        answers = model.run(feeds)
    except (DataError, EngineError) as error:
        reason = f"takes one sample but not {BATCH}, which its source takes: {error.reason}"
        raise ConversionError("artifact", reason, "fix the batch: --shape NAME=1,... for each input") from error
    for name, reference in expected.items():
        if answers[name].shape != reference.shape:
            reason = f"gives {name!r} as {list(answers[name].shape)} on {BATCH} samples, and its source"
            fix = "fix the batch: --shape NAME=1,... for each input"
            raise ConversionError("artifact", f"{reason} as {list(reference.shape)}", fix)
    return tuple(compare_output(name, expected[name][None], answers[name][None]) for name in expected)


def check_batches(subject: str, errors: tuple[OutputError, ...], tolerance: Tolerance, precision: str) -> None:
    """Refuse a batch that is further from the source than the tolerance allows; so few samples have no top-1.

    Raises:
        VerificationError: Naming every such output with its figures.
    """
    check(f"{subject}, {BATCH} samples at once", errors, replace(tolerance, min_top1=None), precision)


def _batch(inputs: tuple[TensorSpec, ...], probe: Probe) -> dict[str, Array]:
    samples = list(islice(probe.feeds(), BATCH))
    samples += [samples[0]] * (BATCH - len(samples))
    return {spec.name: _stacked(spec, [sample[spec.name] for sample in samples]) for spec in inputs}


def _stacked(spec: TensorSpec, values: list[Array]) -> Array:
    dynamic = spec.shape[:1] == (-1,) and values[0].shape[0] == 1
    return np.concatenate(values) if dynamic else values[0]


def describe(errors: tuple[OutputError, ...] | None) -> Mapping[str, object]:
    """Return what the manifest says of it: the batches that were verified, and the figures of the larger."""
    if errors is None:
        return {"batches": [1]}
    return {"batches": [1, BATCH], "batch_outputs": [error.to_dict() for error in errors]}
