"""What both sides are fed, and how far their outputs are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_converter.comparison.accuracy import Labelled
from edgeferry_converter.comparison.sides import Pairing, Side
from edgeferry_converter.data import Data, random_samples
from edgeferry_converter.verification import record
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.numerics import OutputError, compare_output
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.comparison import Options

Samples = Iterable[Mapping[str, Array]]


def choose_samples(
    sides: tuple[Side, Side], pairing: Pairing, given: tuple[Data | None, Labelled | None], options: Options
) -> tuple[Samples, str]:
    """Return samples by the names of the first side, and where they come from, in words."""
    left, right = sides
    probe, data = given
    if probe is not None:
        return probe.bind(left.inputs).take(options.samples), f"{options.probe}"
    if left.probe is not None:
        return list(left.probe.feeds())[: options.samples], f"the probe of {left.name}"
    if right.probe is not None:
        feeds = [{a: feed[b] for a, b in pairing.inputs.items()} for feed in right.probe.feeds()]
        return feeds[: options.samples], f"the probe of {right.name}"
    if data is not None:
        return data.inputs(left.inputs).bind(left.inputs).take(options.samples), f"{options.data}"
    narrow = tuple(_narrower(spec, right, pairing) for spec in left.inputs)
    return random_samples(narrow, options.samples, options.seed, options.shape), f"random inputs of seed {options.seed}"


def _narrower(spec: TensorSpec, right: Side, pairing: Pairing) -> TensorSpec:
    """Take the shape and the range from the side that fixes them."""
    other = next(s for s in right.inputs if s.name == pairing.inputs[spec.name])
    shape = tuple(b if a < 0 else a for a, b in zip(spec.shape, other.shape, strict=True))
    dtype, quantization = (other.dtype, other.quantization) if other.quantization else (spec.dtype, spec.quantization)
    return TensorSpec(spec.name, shape, dtype, quantization)


def differences(left: Side, right: Side, pairing: Pairing, samples: Samples) -> tuple[tuple[OutputError, ...], int]:
    """Run both sides on the samples; return the distance of every output, and how many samples were run.

    Raises:
        DataError: If the reference answers nothing finite, or the shapes of an output differ.
    """
    probe = record(Path(left.name), left, samples)
    answers = [run_second(right, pairing, feeds) for feeds in probe.feeds()]
    return tuple(_one(name, values, answers) for name, values in probe.outputs.items()), len(probe)


def run_second(right: Side, pairing: Pairing, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the second side on what the first was fed; return its outputs by the names of the first."""
    answer = right.run({b: feeds[a] for a, b in pairing.inputs.items()})
    return {a: answer[b] for a, b in pairing.outputs.items()}


def _one(name: str, reference: Array, answers: list[dict[str, Array]]) -> OutputError:
    actual = np.stack([answer[name] for answer in answers])
    if actual.shape != reference.shape:
        reason = f"is {list(reference.shape[1:])} from A and {list(actual.shape[1:])} from B"
        raise DataError(f"output {name!r}", reason, "compare models of one layout and shape")
    return compare_output(name, reference, actual)
