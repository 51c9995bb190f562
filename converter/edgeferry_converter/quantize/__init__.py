"""Quantization of a float artifact, after lowering and for every framework alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeferry_converter.data import Samples
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize.calibration.observer import Statistics
from edgeferry_converter.quantize.rounding import NEAREST
from edgeferry_converter.quantize.support import STATIC


@dataclass(frozen=True)
class Job:
    """One float artifact and what shall become of it.

    Attributes:
        source: The float artifact.
        target: Where the quantized one is written.
        precision: Any but ``none``.
        io_dtype: ``float32``, ``int8`` or ``uint8``: the dtype of float inputs and outputs afterwards.
        samples: What the ranges of activations are taken from, where the precision needs them.
        name: What errors call it; without it the path.
        block_size: Of int4 weights; 0 is one scale per channel.
        activations: ``int8`` or ``uint8``: what ``int8`` stores activations in.
        overrides: Layers of another precision.
        aeq_recipe: A recipe file of ai-edge-quantizer that says it all, instead.
        calibration: The method that makes ranges of what was seen, one of `calibration.methods.METHODS`.
        rounding: Of integer weights, one of `rounding.ROUNDINGS`; ``gptq`` needs samples too.
        signatures: Samples by the name of the signature, where there are several; then `samples` is None.
        statistics: What a pass over the samples has seen; without it `quantize` makes the pass.
        known: Ranges of activations that are taken as they are, by tensor.
    """

    source: Path
    target: Path
    precision: str
    io_dtype: str = "float32"
    samples: Samples | None = None
    name: str = ""
    block_size: int = 0
    activations: str = "int8"
    overrides: tuple[Override, ...] = ()
    aeq_recipe: Path | None = None
    calibration: str = "min-max"
    rounding: str = NEAREST
    signatures: Mapping[str, Samples] = field(default_factory=dict)
    statistics: Statistics | None = None
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def levels(self) -> int:
        """How many steps the range of an activation has; the fewer where layers differ."""
        static = {self.precision, *(override.precision for override in self.overrides)}.intersection(STATIC)
        return 65536 if static == {"int16x8"} else 256

    @property
    def subject(self) -> str:
        """What errors call the artifact."""
        return self.name or str(self.source)


def observe(to: str, job: Job, *, sums: bool = False) -> Statistics:
    """Run the float artifact over all samples, once, and keep what every calibration method needs.

    Args:
        to: Its format.
        job: What is run.
        sums: Keep what trained ranges are matched by instead; then there is one signature.

    Raises:
        ConversionError: If the artifact is quantized already, or its engine refuses it.
        MissingExtraError: If the quantizer is not installed.
        DataError: If a sample does not fit.
    """
    if to == "tflite":
        from edgeferry_converter.quantize.tflite import observe_tflite

        return observe_tflite(job, sums=sums)
    from edgeferry_converter.quantize.onnx import observe_onnx

    return observe_onnx(job, sums=sums)


@dataclass(frozen=True)
class Outcome:
    """What quantization did.

    Attributes:
        tools: Versions of the packages that did it.
        layers: How many layers with weights store them as what: ``int4``, ``int8``, ``float16`` or ``float32``.
        rounding: How many layers with integer weights were rounded how, where that is not ``nearest`` alone.
    """

    tools: Mapping[str, str]
    layers: Mapping[str, int] = field(default_factory=dict)
    rounding: Mapping[str, int] = field(default_factory=dict)


def quantize(to: str, job: Job) -> Outcome:
    """Quantize an artifact of the format `to`.

    Raises:
        UsageError: If an override matches no layer, or one that cannot have its precision.
        ConversionError: If the artifact is quantized already, or the quantizer refuses it.
        MissingExtraError: If the quantizer is not installed.
        DataError: If a sample does not fit.
    """
    if to == "tflite":
        from edgeferry_converter.quantize.tflite import quantize_tflite

        return quantize_tflite(job)
    from edgeferry_converter.quantize.onnx import quantize_onnx

    return quantize_onnx(job)
