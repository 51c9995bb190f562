"""One side of a comparison: a source, an artifact or a bundle, all of which can be run; and who is who."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeferry_converter.data import Data
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.sources import HINTED, SourceSpec, detect, open_source
from edgeferry_converter.sources.options import with_options
from edgeferry_runtime.bundle import Bundle, Probe, is_bundle
from edgeferry_runtime.engines import Execution
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.model import load
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tensors import Array, TensorSpec

ARTIFACTS = ("tflite", "onnx")
SIGNED = ("tflite", "savedmodel")


@dataclass(frozen=True)
class Place:
    """Where one side lies, before it is opened.

    Attributes:
        text: As it was given.
        format: Its format; ``bundle`` for a bundle.
        bundle: The bundle, if it is one.
        signature: Which of its signatures is meant; None takes the primary one.
        delegate: Where a bundle or an artifact is to execute; None leaves that to what opens it.
    """

    text: str
    format: str
    bundle: Bundle | None = None
    signature: str | None = None
    delegate: str | None = None

    @property
    def artifact(self) -> bool:
        """Whether an engine executes it, and so a delegate can."""
        return self.bundle is not None or self.format in ARTIFACTS

    @property
    def signed(self) -> bool:
        """Whether it is of a kind that has signatures."""
        return (self.bundle.manifest.format if self.bundle else self.format) in SIGNED

    @property
    def factory(self) -> bool:
        """Whether it is Python that takes weights."""
        return self.format == "factory"

    @property
    def shapes(self) -> bool:
        """Whether shapes can be given for it."""
        return self.bundle is None and self.format not in ARTIFACTS

    @property
    def preprocess(self) -> Preprocess | None:
        """How pictures become inputs, where a bundle says so."""
        return self.bundle.manifest.preprocess if self.bundle else None


@dataclass(frozen=True)
class Side:
    """A model that can be run.

    Attributes:
        name: As the user gave it.
        inputs: In its own order.
        outputs: In its own order.
        run: Executes once, arrays by name in and out.
        probe: A bundle's golden inputs.
        signatures: The names of all its signatures, the one that runs in front, where there are several.
        execution: What really executes it, where a delegate was asked for.
        close: Lets go of its engine.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    probe: Probe | None = None
    signatures: tuple[str, ...] = ()
    execution: Execution | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Pairing:
    """Which tensor of the second side is which of the first: by name of the first, the name of the second."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say where the names differ."""
        sides = (("input", self.inputs), ("output", self.outputs))
        return tuple(f"{what} {a!r} of A is {b!r} of B" for what, names in sides for a, b in names.items() if a != b)


def locate(text: str, signature: str | None = None) -> Place:
    """Tell what a side is, before any framework is imported.

    Args:
        text: As it was given.
        signature: Which of its signatures is meant, if it is of a kind that has any.

    Raises:
        MissingFileError, ArtifactError, BundleError: If it cannot be used.
        UsageError: For a Python file without a factory.
    """
    if is_bundle(Path(text)):
        bundle = Bundle.open(text)
        bundle.check()
        place = Place(text, "bundle", bundle)
    else:
        place = Place(text, detect(SourceSpec.parse(text)))
    return replace(place, signature=signature) if place.signed else place


def open_side(place: Place, recipe: Recipe, data: Data | None) -> Side:
    """Open one side, importing only the framework that it needs.

    Args:
        place: Where it lies.
        recipe: What a source is told besides its path; nothing else of it counts.
        data: What the shapes are learned from, where nothing else tells them.

    Raises:
        EdgeferryError: What `open_source` and `load` raise.
    """
    if place.bundle or place.delegate:
        return _engine_side(place)
    spec = with_options(SourceSpec.parse(place.text, recipe.weights, recipe.shape), place.format, recipe)
    if place.format in HINTED and data:
        spec = replace(spec, hints=data.shapes())
    source = open_source(replace(spec, signature=(place.signature,) if place.signature else ()))
    return Side(place.text, source.inputs, source.outputs, source.run, signatures=tuple(source.signatures))


def _engine_side(place: Place) -> Side:
    """Load a bundle or an artifact into its engine."""
    model = load(place.text, delegate=place.delegate or "cpu", signature=place.signature)
    probe = place.bundle.probe(place.signature) if place.bundle else None
    signatures = (model.signature, *(key for key in model.signatures if key != model.signature))
    execution = model.execution if place.delegate else None
    return Side(place.text, model.inputs, model.outputs, model.run, probe, signatures, execution, model.close)


def pair(what: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> dict[str, str]:
    """Find the partner of each tensor: by name, else by shape where that is unambiguous.

    Raises:
        DataError: If it is not, if the numbers differ, or if partners differ in shape.
    """
    by_name = {spec.name: spec for spec in b}
    same = {spec.name for spec in a} == set(by_name)
    found = {spec.name: spec.name for spec in a} if same else _by_shape(what, a, b)
    for spec in a:
        if not _fits(spec, by_name[found[spec.name]]):
            reason = f"is {spec} in A and {by_name[found[spec.name]]} in B"
            raise DataError(f"{what} {spec.name!r}", reason, "compare models of one layout and shape")
    return found


def _by_shape(what: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> dict[str, str]:
    partners = {spec.name: [other.name for other in b if _fits(spec, other)] for spec in a}
    chosen = [names[0] for names in partners.values() if len(names) == 1]
    if len(a) == len(b) == 1:
        return {a[0].name: b[0].name}
    if len(a) != len(b) or len(set(chosen)) != len(a):
        reason = f"are {', '.join(map(str, a))} in A and {', '.join(map(str, b))} in B"
        raise DataError(f"the {what}s", reason, "compare models whose names agree, or whose shapes tell them apart")
    return dict(zip(partners, chosen, strict=True))


def _fits(a: TensorSpec, b: TensorSpec) -> bool:
    """Tell whether two shapes can be one; a dynamic dimension fits any."""
    return len(a.shape) == len(b.shape) and all(x == y or -1 in (x, y) for x, y in zip(a.shape, b.shape, strict=True))
