"""Any two of source, artifact and bundle side by side: numerics of every output, accuracy, and gates on both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeferry_converter.comparison.accuracy import Accuracy, Labelled, Metric, measure, open_labelled, set_exam
from edgeferry_converter.comparison.numerics import choose_samples, differences
from edgeferry_converter.comparison.report import Comparison, Gates
from edgeferry_converter.comparison.sides import Pairing, Place, Side, locate, open_side, pair
from edgeferry_converter.data import Data, open_data
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.sources.options import HOMES
from edgeferry_runtime.engines import parse_delegates
from edgeferry_runtime.errors import UsageError

__all__ = ["Accuracy", "Comparison", "Gates", "Options", "verify"]


_OPTIONS = ("weights_key", "custom_objects", "submodule", "constant")
"""What a source may need to be told, as in a recipe."""


@dataclass(frozen=True)
class Options:
    """How two models are compared.

    Attributes:
        probe: Samples to compare with; without them a bundle's own probe, else `data`, else seeded random ones.
        data: An ``.npz`` of inputs by name, and ``label`` or ``labels``, or reference outputs by name.
        metric: ``top1``, ``mse`` or ``auc``, measured on `data`.
        output: The output that the metric is taken of; None where only one can be meant.
        gates: What must hold.
        weights: The weights of a source FILE.py:FACTORY.
        weights_key: Where in them they lie; see `Recipe`.
        custom_objects: ``FILE.py:NAME,NAME``: the Python classes and functions that a Keras file names.
        submodule: The part of a TorchScript module that is the model.
        constant: By name, the values of inputs that are no data.
        shape: Dimensions by input name, where a source does not fix them.
        samples: Most samples to compare with; `data` is always used whole for the metric.
        seed: Of random samples.
        signature: Which of several signatures is compared, of the sides that have any; None takes the primary one.
        delegate: Where B executes, and A where it is another bundle or artifact; None is the CPU. One and the same
            file is its own reference, on the CPU.
    """

    probe: Path | None = None
    data: Path | None = None
    metric: str = "top1"
    output: str | None = None
    gates: Gates = field(default_factory=Gates)
    weights: Path | None = None
    weights_key: str | None = None
    custom_objects: Path | None = None
    submodule: str | None = None
    constant: Mapping[str, int | float | bool] = field(default_factory=dict)
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: int = 32
    seed: int = 0
    signature: str | None = None
    delegate: str | None = None


def verify(a: str, b: str, options: Options | None = None) -> Comparison:
    """Run two models on the same inputs, and measure how far apart they are.

    Args:
        a: The reference, mostly the source: a model file or folder, ``FILE.py:FACTORY``, or a bundle.
        b: What is compared with it, likewise.
        options: How.

    Returns:
        All figures, and which gates failed.

    Raises:
        UsageError: For options that do not fit together.
        DataError: If inputs or outputs of the two do not correspond, or data do not fit.
        EdgeferryError: What opening a source or loading an artifact raises.
    """
    options = options or Options()
    if options.gates.max_drop is not None and options.data is None:
        raise UsageError("--max-drop", "needs labelled data to measure accuracy on", "add --data FILE.npz")
    if options.delegate is not None:
        parse_delegates(options.delegate)
    first, second = locate(a, options.signature), locate(b, options.signature)
    _check_source_options(first, second, options)
    first, second = _delegated(first, second, options.delegate)
    data = open_labelled(options.data) if options.data else None
    preprocess = first.preprocess or second.preprocess
    probe = open_data(options.probe, preprocess) if options.probe else None
    shown = probe or (data.inputs(()) if data else None)
    left, right = (open_side(place, _recipe(place, options), shown) for place in (first, second))
    try:
        pairing = Pairing(pair("input", left.inputs, right.inputs), pair("output", left.outputs, right.outputs))
        return _compare((left, right), pairing, (probe, data), options)
    finally:
        left.close()
        right.close()


def _delegated(first: Place, second: Place, delegate: str | None) -> tuple[Place, Place]:
    """Tell the sides that an engine executes where to do so."""
    if delegate is None:
        return first, second
    if not second.artifact:
        raise UsageError("--delegate", f"is for bundles and artifacts, and B is {second.format}", "leave it out")
    other = first.artifact and Path(first.text).resolve() != Path(second.text).resolve()
    return replace(first, delegate=delegate) if other else first, replace(second, delegate=delegate)


def _compare(
    sides: tuple[Side, Side], pairing: Pairing, given: tuple[Data | None, Labelled | None], options: Options
) -> Comparison:
    probe, data = given
    left, right = sides
    samples, origin = choose_samples(sides, pairing, (probe, data), options)
    errors, count = differences(left, right, pairing, samples)
    accuracy = measure(sides, pairing, set_exam(left, data, Metric(options.metric, options.output))) if data else None
    notes = (*pairing.notes, *(() if options.signature else _others(sides)))
    executions = (left.execution, right.execution)
    found = Comparison(left.name, right.name, origin, count, errors, accuracy, notes=notes, executions=executions)
    return replace(found, verdicts=options.gates.judge(errors, accuracy))


def _recipe(place: Place, options: Options) -> Recipe:
    """Return what a side is told besides its path: only what is for its format, since the other may need the rest."""
    kept = {key: getattr(options, key) for key in _OPTIONS if place.format in HOMES[key][0]}
    weights, shape = options.weights if place.factory else None, options.shape if place.shapes else {}
    return Recipe(weights=weights, shape=shape, **kept)


def _others(sides: tuple[Side, Side]) -> list[str]:
    """Say of each side which signatures are not compared."""
    several = [side for side in sides if len(side.signatures) > 1]
    return [
        f"{side.name} ran its signature {side.signatures[0]!r}; --signature takes {', '.join(side.signatures[1:])}"
        for side in several
    ]


def _check_source_options(first: Place, second: Place, options: Options) -> None:
    if options.signature is not None and not (first.signed or second.signed):
        raise UsageError("--signature", "neither model is of a kind that has signatures", "leave it out")
    if options.weights is not None and not (first.factory or second.factory):
        raise UsageError("--weights", "both models bring their own weights", "leave it out, or give FILE.py:FACTORY")
    if options.shape and not (first.shapes or second.shapes):
        raise UsageError("--shape", "both files keep their shapes", "leave it out")
    for key in _OPTIONS:
        formats, words = HOMES[key]
        if getattr(options, key) and not {first.format, second.format} & set(formats):
            reason = f"is for {words}, and these are {first.format} and {second.format}"
            raise UsageError(f"--{key.replace('_', '-')}", reason, "leave it out")
