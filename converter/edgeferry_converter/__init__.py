"""Edgeferry's converter: makes verified bundles from trained models. Frameworks are imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_converter.conversion import ConversionPlan, Step, convert, perform, plan
    from edgeferry_converter.recipe import Recipe

__all__ = ["ConversionPlan", "Recipe", "Step", "convert", "perform", "plan"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ConversionPlan": "conversion",
        "Recipe": "recipe",
        "Step": "conversion",
        "convert": "conversion",
        "plan": "conversion",
        "perform": "conversion",
    },
)
