"""Calibration within a conversion: the set is examined, and `auto` finds the method with the best outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.data import Samples
from edgeferry_converter.quantize import Job, Outcome, observe, quantize
from edgeferry_converter.quantize.calibration.methods import METHODS
from edgeferry_converter.verification import compare
from edgeferry_runtime.bundle import Probe
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import is_distribution
from edgeferry_runtime.preprocess import Preprocess

Ranges = Mapping[str, tuple[float, float]]

FEWEST = 10
"""Of n samples, the largest extreme is topped by the next sample with a probability of 1/(n+1): by one in eleven."""
NARROW = 8
"""A range so many times narrower than the expected one is said, as one that is a width beyond it is."""


def best(to: str, job: Job, probes: Mapping[str, Probe]) -> tuple[Outcome, dict[str, Any]]:
    """Quantize by every method, after one pass over the samples, and keep the artifact with the best outputs.

    Args:
        to: The artifact's format.
        job: What to do; its method is not looked at.
        probes: What the outputs are compared with, by signature; `""` stands for the only one.

    Returns:
        What quantization did, and for the manifest the ``method`` that was kept with the worst output's
        signal-to-noise ratio of each, ``snr_db``, in decibels; None where it is infinite.
    """
    seen = observe(to, job)
    outcomes: dict[str, Outcome] = {}
    ratios: dict[str, float] = {}
    for method in METHODS:
        target = job.target.with_name(f"{method}-{job.target.name}")
        outcomes[method] = quantize(to, replace(job, target=target, calibration=method, statistics=seen))
        if not ratios:
            try_in_child(target)
        ratios[method] = min(_worst_ratio(target, *one) for one in probes.items())
    chosen = max(ratios, key=lambda method: ratios[method])
    job.target.with_name(f"{chosen}-{job.target.name}").rename(job.target)
    figures = {method: {"snr_db": ratio if math.isfinite(ratio) else None} for method, ratio in ratios.items()}
    return outcomes[chosen], {"method": chosen, "tried": figures}


def _worst_ratio(artifact: Path, signature: str, probe: Probe) -> float:
    with load(artifact, signature=signature or None) as model:
        ratios = [error.snr_db for error in compare(probe, model)]
    return min(-math.inf if math.isnan(ratio) else ratio for ratio in ratios)


def examine(samples: Samples, ranges: Ranges, answers: Probe, expected: Ranges, whose: str) -> tuple[str, ...]:
    """Say what is odd about a calibration set.

    Args:
        samples: The set.
        ranges: The lowest and highest value of each float input over the whole set.
        answers: What the source answered to samples of the set.
        expected: Ranges of inputs that the set should have too.
        whose: What has these ranges.

    Returns:
        One warning each, in words; empty for a set that looks sound.
    """
    return (*_few(samples), *_one_class(samples, answers), *_far(samples, ranges, expected, whose))


def _few(samples: Samples) -> list[str]:
    if len(samples) >= FEWEST:
        return []
    count = "1 sample" if len(samples) == 1 else f"{len(samples)} samples"
    return [f"{samples.path} holds {count}: at least {FEWEST}, better 100, show the ranges that occur in use"]


def _one_class(samples: Samples, answers: Probe) -> list[str]:
    found = []
    for name, output in answers.outputs.items():
        if is_distribution(output) and len(output) > 1:
            winners = np.unique(output.reshape(len(output), -1).argmax(axis=1))
            if len(winners) == 1:
                found.append(
                    f"{samples.path} shows one class only: the source answers {winners[0]} in {name!r} "
                    f"to each of {len(output)} samples"
                )
    return found


def _far(samples: Samples, ranges: Ranges, expected: Ranges, whose: str) -> list[str]:
    found = []
    for name, (low, high) in ranges.items():
        if name not in expected:
            continue
        lowest, highest = expected[name]
        width = highest - lowest
        beyond = low < lowest - width or high > highest + width
        if width > 0 and (beyond or (high - low) * NARROW < width):
            found.append(
                f"{samples.path} has values of {low:.4g} to {high:.4g} for {name!r}, and {whose} of {lowest:.4g} to "
                f"{highest:.4g}: both must be scaled as in training"
            )
    return found


def expected_ranges(probe: Probe | None, preprocess: Preprocess | None, inputs: Ranges) -> tuple[Ranges, str]:
    """Return the ranges that a set should have, and whose they are: those of a probe, else of [preprocess].

    Args:
        probe: Samples to verify with that are not of the set.
        preprocess: How pixels of 0 to 255 become inputs.
        inputs: The set's own ranges; [preprocess] tells of a single input alone.
    """
    if probe is not None:
        floats = {name: values for name, values in probe.inputs.items() if values.dtype.kind == "f" and values.size}
        return {name: (float(values.min()), float(values.max())) for name, values in floats.items()}, "the probe"
    if preprocess is not None and len(inputs) == 1:
        pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1)
        channels = 1 if preprocess.color == "gray" else 3
        values = preprocess.apply(np.repeat(pixels, channels, axis=2))
        return dict.fromkeys(inputs, (float(values.min()), float(values.max()))), "[preprocess]"
    return {}, ""
