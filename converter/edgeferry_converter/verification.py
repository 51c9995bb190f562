"""Proof: the artifact in its engine against its source, every output by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeferry_runtime.bundle import Probe
from edgeferry_runtime.errors import ConversionError, DataError, VerificationError
from edgeferry_runtime.numerics import OutputError, Tolerance, compare_output
from edgeferry_runtime.tensors import Array, TensorSpec

PROBE_BYTES = 16 * 2**20
"""What a probe's inputs may take at most: the probe travels to every device."""

HINTS = {
    "none": "check that the source runs the same in inference mode; or loosen [tolerance]",
    "fp16": "keep float32 with --quantize none, or loosen [tolerance]",
    "weight-only": "keep more precision with --quantize fp16, or loosen [tolerance]",
    "dynamic": "keep more precision with --quantize fp16, or loosen [tolerance]",
    "weight-only-int4": "keep more precision with --quantize weight-only or --block-size 32, or loosen [tolerance]",
    "dynamic-int4": "keep more precision with --quantize dynamic or --block-size 32, or loosen [tolerance]",
    "int8": "give --calibrate more data that is typical of use, use --quantize dynamic, or loosen [tolerance]",
    "int16x8": "give --calibrate more data that is typical of use, use --quantize fp16, or loosen [tolerance]",
}


class Runnable(Protocol):
    """A source or a loaded model."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs."""
        ...

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Execute once."""
        ...


def record(path: Path, source: Runnable, samples: Iterable[Mapping[str, Array]]) -> Probe:
    """Run a source on samples and keep what went in and what came out.

    Args:
        path: Where the samples lie, for errors.
        source: What holds the truth.
        samples: What it is fed; no more are taken than `PROBE_BYTES` hold, but one at least.

    Raises:
        DataError: If samples differ in shape, or the source answers with something that is not finite.
    """
    fed: list[Mapping[str, Array]] = []
    answers: list[dict[str, Array]] = []
    size = 0
    for sample in samples:
        size += sum(value.nbytes for value in sample.values())
        if fed and size > PROBE_BYTES:
            break
        fed.append(sample)
        answers.append(source.run(sample))
    for name, values in _stack(path, answers).items():
        if values.dtype.kind == "f" and not np.isfinite(values).any():
            fix = "give --probe samples that are typical of use"
            raise DataError(path, f"makes the source answer {name!r} without one finite number", fix)
    return Probe(_stack(path, fed), _stack(path, answers))


def _stack(path: Path, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    names = samples[0].keys()
    for name in names:
        shapes = {sample[name].shape for sample in samples}
        if len(shapes) > 1:
            listed = " and ".join(str(list(s)) for s in sorted(shapes)[:2])
            raise DataError(path, f"gives {name!r} in several shapes, such as {listed}", "give samples of one shape")
    return {name: np.stack([sample[name] for sample in samples]) for name in names}


def compare(probe: Probe, model: Runnable) -> tuple[OutputError, ...]:
    """Run a model on a probe and measure the distance of every output.

    Raises:
        ConversionError: If an output is missing, or has another shape than the source's.
    """
    answers = [model.run(feeds) for feeds in probe.feeds()]
    return tuple(_compare_one(name, reference, answers) for name, reference in probe.outputs.items())


def _compare_one(name: str, reference: Array, answers: Sequence[Mapping[str, Array]]) -> OutputError:
    if name not in answers[0]:
        raise ConversionError("artifact", f"has no output {name!r}, which its source has", "report this")
    actual = np.stack([answer[name] for answer in answers])
    if actual.shape != reference.shape:
        reason = f"gives {name!r} as {list(actual.shape[1:])}, and its source as {list(reference.shape[1:])}"
        raise ConversionError("artifact", reason, "report this")
    return compare_output(name, reference, actual)


def check(subject: str, errors: Iterable[OutputError], tolerance: Tolerance, precision: str) -> None:
    """Refuse outputs that are further from the source than the tolerance allows.

    Raises:
        VerificationError: Naming every such output with its figures.
    """
    broken = [violation for error in errors for violation in tolerance.violations(error)]
    if broken:
        raise VerificationError(subject, "differs from its source: " + "; ".join(broken), HINTS[precision])
