"""Compression with training: pruning, distillation and quantization-aware training, for Keras and PyTorch alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_converter.compress.compression import Compressed, CompressPlan, compress, perform, plan
    from edgeferry_converter.compress.given import Given
    from edgeferry_converter.compress.history import History
    from edgeferry_converter.compress.recipe import CompressRecipe, Step, Train
    from edgeferry_converter.compress.training import Event

__all__ = [
    "CompressPlan",
    "CompressRecipe",
    "Compressed",
    "Event",
    "Given",
    "History",
    "Step",
    "Train",
    "compress",
    "perform",
    "plan",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CompressPlan": "compression",
        "CompressRecipe": "recipe",
        "Compressed": "compression",
        "Event": "training",
        "Given": "given",
        "History": "history",
        "Step": "recipe",
        "Train": "recipe",
        "compress": "compression",
        "perform": "compression",
        "plan": "compression",
    },
)
