"""Quantization of a float artifact, after lowering and for every framework alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeferry_converter.data import Samples


@dataclass(frozen=True)
class Job:
    """One float artifact and what shall become of it.

    Attributes:
        source: The float artifact.
        target: Where the quantized one is written.
        precision: ``fp16``, ``dynamic`` or ``int8``.
        io_dtype: ``float32`` or ``int8``: the dtype of float inputs and outputs afterwards.
        samples: What ``int8`` takes the ranges of activations from.
        name: What errors call it; without it the path.
    """

    source: Path
    target: Path
    precision: str
    io_dtype: str = "float32"
    samples: Samples | None = None
    name: str = ""

    @property
    def subject(self) -> str:
        """What errors call the artifact."""
        return self.name or str(self.source)


def quantize(to: str, job: Job) -> dict[str, str]:
    """Quantize an artifact of the format `to`; return the versions of the tools that did it.

    Raises:
        ConversionError: If the artifact is quantized already, or the quantizer refuses it.
        MissingExtraError: If the quantizer is not installed.
        DataError: If a sample does not fit.
    """
    if to == "tflite":
        from edgeferry_converter.quantize.tflite import quantize_tflite

        return quantize_tflite(job)
    from edgeferry_converter.quantize.onnx import quantize_onnx

    return quantize_onnx(job)
