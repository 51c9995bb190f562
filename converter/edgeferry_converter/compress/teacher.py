"""One teacher: any model that answers, asked in the words and the layout of its student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeferry_converter.comparison.sides import ARTIFACTS, Place, locate
from edgeferry_converter.compress.methods.teaching import SOURCE, Teach
from edgeferry_converter.compress.network import Arrays, Feeds, Network
from edgeferry_converter.compress.opening import OPENERS, open_network
from edgeferry_converter.compress.pairing import Wire, wires
from edgeferry_converter.sources import SourceSpec, open_source
from edgeferry_converter.sources.artifact import load_doubtful
from edgeferry_runtime.errors import DataError, UsageError
from edgeferry_runtime.model import load
from edgeferry_runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Teacher:
    """A trained model that is asked in the student's words.

    Attributes:
        name: As the user gave it.
        inputs: Its own.
        outputs: Its own.
        run: Answers one batch.
        network: What shows layers; None of an artifact and of what only runs.
        wires: How its inputs are made of the student's.
        close: Lets go of its engine.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[[Feeds], Arrays]
    network: Network | None = None
    wires: tuple[Wire, ...] = ()
    close: Callable[[], None] = lambda: None

    def answers(self, inputs: Feeds) -> Arrays:
        """Answer the student's data, of any number of samples: every output by name, of [samples, ...]."""
        feeds, size = self._feeds(inputs), self._batch
        count = len(next(iter(feeds.values())))
        if size is None:
            return self.run(feeds)
        order = np.arange(-(-count // size) * size).clip(max=count - 1).reshape(-1, size)
        parts = [self.run({name: values[rows] for name, values in feeds.items()}) for rows in order]
        return {
            s.name: np.concatenate([self._rows(part[s.name], size) for part in parts])[:count] for s in self.outputs
        }

    def layers(self, inputs: Feeds, names: list[str]) -> Arrays:
        """Return the outputs of layers for the student's data, channels last."""
        assert self.network is not None
        return self.network.features(self._feeds(inputs), names)

    def _feeds(self, inputs: Feeds) -> Feeds:
        return {wire.spec.name: wire.carry(inputs[wire.student]) for wire in self.wires}

    @property
    def _batch(self) -> int | None:
        """The batch that it insists on; modules of PyTorch take any."""
        sizes = [spec.shape[0] for spec in self.inputs if spec.shape[:1] > (0,)]
        return sizes[0] if sizes and getattr(self.network, "framework", "") != "torch" else None

    def _rows(self, values: Array, size: int) -> Array:
        if values.shape[:1] == (size,):
            return values
        if size > 1:
            reason = f"answers a batch of {size} with [{'x'.join(map(str, values.shape))}]"
            raise DataError(self.name, reason, "give a teacher whose outputs have a batch axis")
        return values[np.newaxis]


def open_teacher(told: Teach, source: Network, first: Feeds, framework: str) -> Teacher:
    """Open a teacher, importing only what it needs, and pair its inputs with the student's.

    Args:
        told: Who it is. A factory is executed.
        source: The teacher that is called `SOURCE`.
        first: One sample, by the student's input names.
        framework: The student's.

    Raises:
        UsageError: If an artifact is asked for its layers.
        DataError: If the inputs do not fit.
        EdgeferryError: What opening it raises.
    """
    teacher = _opened(told, source, first, framework)
    return replace(teacher, wires=wires(teacher.name, teacher.inputs, first))


def _opened(told: Teach, source: Network, first: Feeds, framework: str) -> Teacher:
    if told.teacher == SOURCE:
        return Teacher(SOURCE, source.inputs, source.outputs, source.predict, source)
    place, layers = locate(told.teacher), bool(told.hints or told.attention)
    spec = None if place.bundle else _spec(told, first, framework)
    if spec and place.format in OPENERS and (layers or place.format != "h5"):
        network = open_network(spec)
        return Teacher(told.teacher, network.inputs, network.outputs, network.predict, network)
    if layers:
        reason = f"the teacher {told.teacher} is {place.format}, which shows no layers"
        fix = "give the .keras file or factory that it was made from, or leave hints and attention out"
        raise UsageError("teach.hints", reason, fix)
    return _runner(place, spec)


def _runner(place: Place, spec: SourceSpec | None) -> Teacher:
    """Open what can only be run: an artifact, a bundle, or any other source."""
    if spec is None or place.format in ARTIFACTS:
        model = load(place.text) if spec is None else load_doubtful(Path(place.text))
        return Teacher(place.text, model.inputs, model.outputs, model.run, close=model.close)
    opened = open_source(spec)
    return Teacher(place.text, opened.inputs, opened.outputs, opened.run)


def _spec(told: Teach, first: Feeds, framework: str) -> SourceSpec:
    """Say where a teacher lies; where nothing tells its shapes, they are the student's, channels in front."""
    move = framework == "keras"
    shapes = {name: (np.moveaxis(v, -1, 1) if move and v.ndim > 3 else v).shape for name, v in first.items()}
    hints = {**shapes, "": next(iter(shapes.values()))} if len(shapes) == 1 else shapes
    weights = Path(told.weights) if told.weights else None
    return replace(SourceSpec.parse(told.teacher, weights), hints=hints)
