"""How a compression is shown: the plan before it, and the table after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeferry_converter.compress import output, recipe_text
from edgeferry_converter.compress.compression import Compressed, CompressPlan
from edgeferry_converter.compress.given import words
from edgeferry_converter.compress.history import Entry, History, Standing
from edgeferry_converter.compress.judging import unit
from edgeferry_converter.compress.methods import name_of
from edgeferry_converter.compress.recipe import Step
from edgeferry_runtime.commands.output import table

SHOWN = 8
"""How many layers that were left alone are named, before the rest is counted."""


def plan_dict(plan: CompressPlan) -> dict[str, Any]:
    """Return the JSON form of a plan."""
    return {
        "source": str(plan.spec),
        "format": plan.format,
        "output": str(plan.output.absolute()),
        "steps": _steps(plan),
        "recipe": recipe_text.to_toml(plan.recipe),
    }


def plan_text(plan: CompressPlan) -> str:
    """Return a plan as text."""
    numbered = [f"{number}. {step}" for number, step in enumerate(_steps(plan), 1)]
    return "\n".join([*numbered, "", recipe_text.to_toml(plan.recipe).rstrip()])


def _steps(plan: CompressPlan) -> list[str]:
    recipe, given = plan.recipe, plan.given
    held = f"a tenth of it that is held out, seed {recipe.seed}"
    measured = f", made {recipe.convert.to} and measured after each step" if recipe.convert else ""
    return [
        f"open {plan.spec} ({plan.format})",
        f"read {words(given.data)}, judge by {words(given.evaluate) if given.evaluate is not None else held}",
        *(_step(step) + measured for step in recipe.step),
        f"write the model and its history into {plan.output}",
    ]


def _step(step: Step) -> str:
    train = step.train
    taught = f", taught by {step.teach.teacher}" if step.teach else ""
    gate = "" if step.max_drop is None else f", a drop of at most {step.max_drop:g}"
    how = f"{train.epochs} epochs of {train.optimizer} at {train.rate:g}"
    return f"{step.name}: {name_of(step.method)}, {how}{taught}{gate}"


def report(compressed: Compressed) -> str:
    """Return what a compression has come to, as text."""
    history = compressed.history
    kept = f"kept: {history.best or 'the model as it was given'}"
    parts = [history_table(history), *_notes(history), kept, f"{compressed.path} has {compressed.model.name}"]
    return "\n".join([parts[0], "", *parts[1:], f"next: {_next(compressed)}"])


def history_table(history: History) -> str:
    """Return a row for the source and for each step; columns that nobody measured are left out."""
    heading = ["", history.metric, "drop", "parameters", "zeros", "MACs", "bytes", "compressed", "p50 ms"]
    rows = [heading, ["source", *_figures(history.start, history.metric, None)]]
    rows += [[_name(step), *_figures(step.standing, history.metric, step.drop)] for step in history.steps]
    wanted = [i for i in range(len(heading)) if any(row[i] for row in rows[1:])]
    return table([[row[i] for i in wanted] for row in rows])


def _name(step: Entry) -> str:
    return step.name if step.passed else f"{step.name} (over its gate)"


def _figures(standing: Standing, metric: str, drop: float | None) -> list[str]:
    return [
        f"{standing.score:.2f}%" if unit(metric) else f"{standing.score:.4g}",
        "" if drop is None else f"{drop:+.2f}",
        f"{standing.parameters:,}",
        f"{standing.sparsity:.1%}",
        _whole(standing.macs),
        _whole(standing.artifact_bytes),
        _whole(standing.compressed_bytes),
        "" if standing.median_ms is None else f"{standing.median_ms:.3g}",
    ]


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _notes(history: History) -> Iterator[str]:
    for step in history.steps:
        for layer, reason in list(step.kept.items())[:SHOWN]:
            yield f"{step.name} left {layer} alone: {reason}"
        if len(step.kept) > SHOWN:
            yield f"{step.name} left {len(step.kept) - SHOWN} more layers alone: see {output.HISTORY}"
    if history.stopped:
        yield f"stopped: {history.stopped}"


def _next(compressed: Compressed) -> str:
    if compressed.bundle is not None:
        return f"ferry bench {compressed.bundle.path}, or ferry push {compressed.bundle.path} DEVICE"
    recipe = compressed.path / output.CONVERT
    return f"ferry convert {compressed.model}{f' --recipe {recipe}' if recipe.is_file() else ''} -o BUNDLE"
