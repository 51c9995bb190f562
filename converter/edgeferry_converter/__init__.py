"""Edgeferry's converter: makes verified bundles from trained models. Frameworks are imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeferry_runtime.lazy import lazy

if TYPE_CHECKING:
    from edgeferry_converter.comparison import Comparison, verify
    from edgeferry_converter.conversion import ConversionPlan, Step, convert, perform, plan
    from edgeferry_converter.inspection import Inspection, inspect
    from edgeferry_converter.overrides import Override
    from edgeferry_converter.recipe import Recipe

__all__ = [
    "Comparison",
    "ConversionPlan",
    "Inspection",
    "Override",
    "Recipe",
    "Step",
    "convert",
    "inspect",
    "perform",
    "plan",
    "verify",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Comparison": "comparison",
        "ConversionPlan": "conversion",
        "Inspection": "inspection",
        "Override": "overrides",
        "Recipe": "recipe",
        "Step": "conversion",
        "convert": "conversion",
        "inspect": "inspection",
        "plan": "conversion",
        "perform": "conversion",
        "verify": "comparison",
    },
)
