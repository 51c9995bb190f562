"""How far the outputs of two models are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeferry_runtime.tensors import Array

NO_SIGNAL_DB = -300.0
"""The signal-to-noise ratio of nothing but noise, which is minus infinity and has no form in JSON."""


@dataclass(frozen=True)
class OutputError:
    """The distance of one output from its reference, over all probe samples.

    Attributes:
        name: The output's name.
        max_abs: Largest absolute difference, in the output's unit.
        mean_abs: Mean absolute difference.
        cosine: Cosine similarity of the flattened outputs; 1 for two zero vectors.
        snr_db: Signal-to-noise ratio in decibels, 10·log10(Σ ref² / Σ diff²); inf where equal, `NO_SIGNAL_DB` where
            the reference is zero.
        top1: Share of samples whose largest element is the same one; None where the output is no distribution.
    """

    name: str
    max_abs: float
    mean_abs: float
    cosine: float
    snr_db: float
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, in which None stands for what is not finite: an SNR of equal outputs, a NaN."""
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(self).items()}

    def of(self, signature: str | None) -> OutputError:
        """Return the same under a name that tells the signature too, where there is one."""
        return self if not signature else replace(self, name=f"{signature}: {self.name}")


@dataclass(frozen=True)
class Tolerance:
    """What a comparison must reach; None leaves a figure unchecked.

    Attributes:
        max_abs: Upper limit of the largest absolute difference.
        min_cosine: Lower limit of the cosine similarity.
        min_snr_db: Lower limit of the signal-to-noise ratio, in decibels.
        min_top1: Lower limit of the top-1 agreement, 0 to 1.
    """

    max_abs: float | None = None
    min_cosine: float | None = None
    min_snr_db: float | None = None
    min_top1: float | None = None

    def violations(self, error: OutputError) -> list[str]:
        """Say in words which limits `error` breaks; empty where none. A NaN breaks every limit."""
        checks = (
            ("max abs error", error.max_abs, self.max_abs, 1),
            ("cosine", error.cosine, self.min_cosine, -1),
            ("SNR dB", error.snr_db, self.min_snr_db, -1),
            ("top-1 agreement", error.top1, self.min_top1, -1),
        )
        return [
            f"{error.name}: {what} {value:.4g} is {'above' if sign > 0 else 'below'} {limit:.4g}"
            for what, value, limit, sign in checks
            if limit is not None and value is not None and not sign * value <= sign * limit
        ]


TOLERANCES: Mapping[str, Tolerance] = {
    "none": Tolerance(min_cosine=0.99999, min_snr_db=60.0, min_top1=0.98),
    "fp16": Tolerance(min_cosine=0.9999, min_snr_db=40.0, min_top1=0.95),
    "int16x8": Tolerance(min_cosine=0.98, min_snr_db=12.0, min_top1=0.85),
    "weight-only": Tolerance(min_cosine=0.98, min_snr_db=12.0, min_top1=0.85),
    "dynamic": Tolerance(min_cosine=0.98, min_snr_db=12.0, min_top1=0.85),
    "int8": Tolerance(min_cosine=0.95, min_snr_db=8.0, min_top1=0.8),
    "weight-only-int4": Tolerance(min_cosine=0.75, min_snr_db=2.0, min_top1=0.5),
    "dynamic-int4": Tolerance(min_cosine=0.75, min_snr_db=2.0, min_top1=0.5),
}
"""The default tolerance of each precision, between a source and its artifact.

They catch what is broken (a lost weight, a swapped axis, a clipped range) and leave room for models that quantize
badly. The worst of ResNet-8 and ResNet-20 (CIFAR-10), mini_XCEPTION and DS-CNN (keywords), in both formats on 32
typical samples, was: none 113 dB; fp16 49.5 dB; dynamic 15.1 dB, top-1 0.875; int8 12.4 dB, top-1 0.875. The worst of
ResNet-8 (on photographs, which it was not trained on) and DS-CNN, both formats: int16x8 22.0 dB, top-1 0.906;
weight-only 21.9 dB, top-1 0.891; int4 matrices 3.8 dB, cosine 0.804, top-1 0.578 (ResNet-8; DS-CNN 28.0 dB, 0.99).
"""


def is_distribution(output: Array) -> bool:
    """Tell whether an output is one of scores over at least two classes: samples of [1, classes], or [classes]."""
    return output.ndim >= 2 and output.shape[-1] >= 2 and output.size == len(output) * output.shape[-1]


def compare_output(name: str, reference: Array, actual: Array) -> OutputError:
    """Compare one output with its reference.

    Args:
        name: The output's name.
        reference: Samples along the first axis, any numeric dtype.
        actual: The same shape.

    Returns:
        The distances, computed in float64. A non-finite value in `actual` that `reference` does not have makes
        them NaN, which no tolerance accepts.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        return _distances(name, reference, actual)


def _distances(name: str, reference: Array, actual: Array) -> OutputError:
    import numpy as np

    ref, act = reference.astype(np.float64), actual.astype(np.float64)
    same = (ref == act) | (np.isnan(ref) & np.isnan(act))
    diff = np.where(same, 0.0, act - ref)
    ref, act = np.where(same & ~np.isfinite(ref), 0.0, ref), np.where(same & ~np.isfinite(act), 0.0, act)
    noise, signal, power = float(np.sum(diff**2)), float(np.sum(ref**2)), float(np.sum(act**2))
    norm = math.sqrt(signal) * math.sqrt(power)
    both_zero = 1.0 if noise == 0 else 0.0
    return OutputError(
        name=name,
        max_abs=float(np.max(np.abs(diff), initial=0.0)),
        mean_abs=float(np.mean(np.abs(diff))) if diff.size else 0.0,
        cosine=float(np.sum(ref * act)) / norm if norm != 0 else both_zero,
        snr_db=_decibels(signal, noise),
        top1=_top1_agreement(ref, act) if is_distribution(ref) else None,
    )


def _decibels(signal: float, noise: float) -> float:
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0 else NO_SIGNAL_DB


def _top1_agreement(reference: Array, actual: Array) -> float:
    """Share of samples that agree; a tie in `actual` counts when the reference's winner is among the winners."""
    import numpy as np

    ref = reference.reshape(len(reference), -1)
    act = actual.reshape(len(actual), -1)
    winner = np.argmax(ref, axis=1)
    return float(np.mean(act[np.arange(len(act)), winner] == act.max(axis=1)))
