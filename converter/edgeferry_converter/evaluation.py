"""Accuracy while a conversion proves itself: source and artifact on labelled data, and the gate on what is lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.comparison.accuracy import Accuracy, Exam, Metric, measure, set_exam
from edgeferry_converter.comparison.sides import Pairing, Side
from edgeferry_converter.metrics import UNITS
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.sources import Source
from edgeferry_runtime.errors import UsageError, VerificationError
from edgeferry_runtime.model import load

if TYPE_CHECKING:
    from edgeferry_converter.conversion import ConversionPlan


@dataclass(frozen=True)
class Evaluation:
    """A source that stands before labelled data.

    Attributes:
        side: The source, of several signatures the primary one.
        exam: What it is fed, and what it should answer.
    """

    side: Side
    exam: Exam

    def __str__(self) -> str:
        return f"measure {self.exam.metric} on {len(self.exam.truth)} labelled samples"


def check_recipe(recipe: Recipe) -> None:
    """Refuse what is said of accuracy where there are no labelled data.

    Raises:
        UsageError: Naming the option.
    """
    for key in ("metric", "metric_output", "max_drop"):
        if recipe.evaluate is None and getattr(recipe, key) != getattr(Recipe(), key):
            reason = "is of accuracy, and there is no labelled data to measure it on"
            raise UsageError(f"--{key.replace('_', '-')}", reason, "add --evaluate LABELLED.npz")


def prepare(plan: ConversionPlan, source: Source) -> Evaluation | None:
    """Make the labelled data of a plan ready for its source; None where there are none.

    Raises:
        UnknownNameError: If there is no such output.
        UsageError: If several outputs could be meant.
        DataError: If the data fit no input, or name no truth.
    """
    if plan.labelled is None:
        return None
    wanted = Metric(plan.recipe.metric, plan.recipe.metric_output, "--metric-output")
    side = Side(str(plan.spec), source.inputs, source.outputs, source.run)
    return Evaluation(side, set_exam(side, plan.labelled, wanted))


def evaluate(evaluation: Evaluation, artifact: Path, signature: str) -> Accuracy:
    """Run source and artifact on every labelled sample.

    Args:
        evaluation: The source, before its data.
        artifact: What became of it, with the same names.
        signature: Of several the primary one; empty where there is one.

    Raises:
        DataError: If labels and outputs do not fit.
    """
    left = evaluation.side
    pairing = Pairing({s.name: s.name for s in left.inputs}, {s.name: s.name for s in left.outputs})
    with load(artifact, signature=signature or None) as model:
        right = Side(str(artifact), model.inputs, model.outputs, model.run)
        return measure((left, right), pairing, evaluation.exam)


def check(subject: str, found: Accuracy, limit: float | None) -> None:
    """Refuse an artifact that loses more accuracy than is allowed.

    Args:
        subject: What was converted to what.
        found: The accuracy of both.
        limit: The most that may be lost; None allows anything.

    Raises:
        VerificationError: With both values.
    """
    if limit is None or found.drop <= limit:
        return
    unit = UNITS[found.metric]
    lost = f"{found.drop:.3g} {'points' if unit else 'percent'}"
    values = f"{found.a:.4g}{unit} to {found.b:.4g}{unit} on {found.samples} samples"
    reason = f"{found.metric} of {found.output!r} goes from {values}, and the drop of {lost} is above"
    raise VerificationError(subject, f"{reason} --max-drop {limit:g}", "keep more precision, or raise --max-drop")


def describe(found: Accuracy) -> dict[str, Any]:
    """Return what the manifest says: `Accuracy` with its sides called source and artifact."""
    figures = found.to_dict()
    sides = {"source": figures.pop("a"), "artifact": figures.pop("b")}
    return {**{key: figures[key] for key in ("metric", "output", "samples")}, **sides, "drop": figures["drop"]}
