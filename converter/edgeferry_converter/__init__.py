"""Edgeferry's converter: makes verified bundles from trained models. Frameworks are imported when first needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
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
}

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


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
