"""What ``ferry convert --dry-run`` shows: the plan, before any framework is imported."""

from __future__ import annotations

from typing import Any

from edgeferry_converter.conversion import ConversionPlan
from edgeferry_converter.recipe import Recipe


def plan_dict(plan: ConversionPlan) -> dict[str, Any]:
    """Return the JSON form of a plan."""
    recipe = plan.recipe
    limits = {key: value for key, value in vars(recipe.limits).items() if value is not None}
    return {
        "source": str(plan.spec),
        "format": plan.format,
        "bundle": str(plan.output.absolute()),
        "name": plan.name,
        "steps": steps(plan),
        "limits": limits,
        "recipe": recipe.to_toml(),
    }


def steps(plan: ConversionPlan) -> list[str]:
    """Say what will be done, in order."""
    recipe = plan.recipe
    data = recipe.probe or recipe.calibrate or recipe.ranges
    origin = f"of {data}" if data else f"made of random numbers, seed {recipe.seed}"
    quantize = f"quantize to {recipe.quantize}, inputs and outputs {recipe.io_dtype}"
    shown = recipe.calibrate or recipe.ranges
    quantize += f", trained ranges of {recipe.ranges}, others" if recipe.ranges else "," if shown else ""
    quantize += f" calibrated by {recipe.calibration} on {shown}" if shown else ""
    quantize += f", weights rounded by {recipe.rounding}" if recipe.rounding != Recipe.rounding else ""
    quantize += "".join(f", {o.layer or o.operator} as {o.precision}" for o in recipe.override)
    return [
        f"open {plan.spec} ({plan.format})",
        f"run it on at most {recipe.samples} samples {origin}",
        f"lower it to {recipe.to}",
        *([quantize] if recipe.quantize != "none" or recipe.override else []),
        "run the artifact on the same samples, and compare every output",
        *_evaluation(recipe),
        f"write the bundle {plan.name!r} into {plan.output}",
    ]


def _evaluation(recipe: Recipe) -> list[str]:
    if recipe.evaluate is None:
        return []
    limit = "" if recipe.max_drop is None else f", a drop of at most {recipe.max_drop:g}"
    return [f"measure {recipe.metric} of both on {recipe.evaluate}{limit}"]


def plan_text(plan: ConversionPlan) -> str:
    """Return a plan as text."""
    told = plan_dict(plan)
    numbered = [f"{number}. {step}" for number, step in enumerate(told["steps"], 1)]
    limits = ", ".join(f"{key} {value:g}" for key, value in told["limits"].items())
    return "\n".join([*numbered, f"limits: {limits}", "", told["recipe"].rstrip() or "# the recipe is all defaults"])
