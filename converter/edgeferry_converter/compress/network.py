"""A model that can be trained, of either framework: what every method of compression works on.

Arrays cross this border as NumPy, features with their channels last; what lies behind it is the framework's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeferry_runtime.errors import TrainingError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.compress.grid import Grid, Ranges
    from edgeferry_converter.compress.recipe import Train
    from edgeferry_converter.compress.structure.graph import ChannelGraph

Arrays = dict[str, Array]
Feeds = Mapping[str, Array]
"""One batch by input name, batch axis included."""

CROSS_ENTROPY, BINARY, SQUARED = "cross-entropy", "binary-cross-entropy", "mse"
LOSSES = (CROSS_ENTROPY, BINARY, SQUARED)
LOGITS = "logits"
"""What `Batch.taught` calls the teacher's output."""
FEATURE, ATTENTION = "feature", "attention"
SETTLED_SAMPLES = 32
"""How many samples travel with the ranges of a quantized network."""


@dataclass(frozen=True)
class Weight:
    """A kernel that a method may change: of a convolution, a dense layer, an attention.

    Attributes:
        name: Its own, as `Network.read` takes it, such as ``conv1/kernel`` or ``features.0.weight``.
        layer: The layer that it belongs to, as `Network.layers` has it.
        kind: ``convolution``, ``depthwise``, ``transposed`` or ``dense``.
        shape: As the framework keeps it.
        inputs: The axes that are summed over; for a depthwise kernel only those in space.
        outputs: The axes of output channels.
    """

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Samples with what they should give.

    Attributes:
        inputs: By input name, of [batch, ...].
        truth: Class numbers of [batch], or target values of [batch, ...].
        taught: What a teacher says of them: `LOGITS`, of [batch, values], and what `Hint.key` names.
    """

    inputs: Arrays
    truth: Array
    taught: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Hint:
    """A layer of the student that shall be like one of the teacher's.

    Attributes:
        layer: The student's.
        kind: `FEATURE` (values, through a learned projection where channels differ) or `ATTENTION` (where it looks).
        weight: Of its loss beside the others.
        channels: How many the teacher's layer has; 0 says that they are as many as the student's.
    """

    layer: str
    kind: str = FEATURE
    weight: float = 1.0
    channels: int = 0

    @property
    def key(self) -> str:
        """What `Batch.taught` calls the teacher's side: of [batch, ..., channels], or a map of [batch, ...]."""
        return f"{self.kind}:{self.layer}"

    def projection(self, channels: int) -> Array | None:
        """Return the first values of the matrix that makes a student's channels those of the teacher.

        They depend on the layer's name and the sizes alone, so that both frameworks begin with the same ones: uniform,
        with the spread of Glorot and Bengio 2010, equation 16.

        Args:
            channels: The student's.

        Returns:
            Float32 of [channels, the teacher's channels]; None where nothing is to be projected.
        """
        if self.kind != FEATURE or self.channels in (0, channels):
            return None
        spread = (6 / (channels + self.channels)) ** 0.5
        random = np.random.default_rng([*self.layer.encode(), channels, self.channels])
        return random.uniform(-spread, spread, (channels, self.channels)).astype(np.float32)


@dataclass(frozen=True)
class Objective:
    """What training makes small: a weighted sum.

    Attributes:
        loss: Of the output against the truth, one of `LOSSES`.
        output: The output that is trained.
        probabilities: Whether it is a distribution (or a probability) already, and no logits.
        hard: Weight of that loss.
        soft: Weight of the teacher's soft targets.
        temperature: Of the soft targets.
        hints: Layers that shall be like the teacher's.
        label_smoothing: What of the truth is spread over all classes, 0 to 1.
    """

    loss: str
    output: str
    probabilities: bool = False
    hard: float = 1.0
    soft: float = 0.0
    temperature: float = 1.0
    hints: tuple[Hint, ...] = ()
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Course:
    """How a network is trained from here on.

    Attributes:
        objective: What is made small.
        train: Optimizer, epochs and the rest of what the recipe says.
        steps: How many optimizer steps there will be, over all epochs.
        seed: Of what is random while it trains, such as dropout.
    """

    objective: Objective
    train: Train
    steps: int
    seed: int = 0


def check_trained(name: str, values: Sequence[object]) -> None:
    """Refuse a network of which nothing would be trained.

    Args:
        name: What errors call it.
        values: What the optimizer is to change.

    Raises:
        TrainingError: If there are none.
    """
    if not values:
        fix = "let some be trained (trainable, requires_grad), or set epochs = 0"
        raise TrainingError(name, "has no values that are trained: all are frozen", fix)


class Trainer(Protocol):
    """A network in training: its optimizer, and how far it is."""

    def epoch(self, batches: Iterable[Batch], after_step: Callable[[int], None]) -> float:
        """Take one optimizer step for each batch.

        The learning rate of each step is that of `rates.learning_rate`. After each step the network's masks are
        applied, and then `after_step` is called with the number of steps since the trainer was made, from 1.

        Args:
            batches: Of one epoch; their number is known (``len``).
            after_step: May change weights and masks.

        Returns:
            The mean loss of all samples.

        Raises:
            TrainingError: As soon as the loss is not finite.
        """
        ...

    def state(self) -> Arrays:
        """Return what the optimizer remembers, its steps included, so that training can go on exactly."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what `state` returned."""
        ...


class Network(Protocol):
    """A trained model, opened for training; a method either changes one in place or returns another.

    Attributes:
        name: What errors call it.
        framework: ``keras`` or ``torch``.
        inputs: In its own order; -1 marks a dynamic dimension.
        outputs: Likewise.
    """

    name: str
    framework: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def layers(self) -> tuple[str, ...]:
        """Return the layers whose output `features` can give, in the order of the model."""
        ...

    def weights(self) -> tuple[Weight, ...]:
        """Return the kernels, in the order of the model."""
        ...

    def unprunable(self) -> Mapping[str, str]:
        """Return the layers that store tables of values which are not among `weights`, each with the reason."""
        ...

    def read(self, weight: str) -> Array:
        """Return the values of a kernel: a copy."""
        ...

    def write(self, weight: str, values: Array) -> None:
        """Set the values of a kernel."""
        ...

    def mask(self, masks: Mapping[str, Array]) -> None:
        """Hold what is False in a mask at zero, now and after every step of training; replaces all masks before.

        Args:
            masks: Booleans by kernel, of its shape. Kernels that are not named are free.
        """
        ...

    def parameters(self) -> int:
        """Return how many values are stored: weights, biases, and the statistics of normalization."""
        ...

    def predict(self, feeds: Feeds) -> Arrays:
        """Run one batch for inference; every output by name."""
        ...

    def features(self, feeds: Feeds, layers: Sequence[str]) -> Arrays:
        """Run one batch for inference and return the outputs of layers by name, channels last.

        Raises:
            UnknownNameError: If there is no such layer.
        """
        ...

    def gradients(self, batches: Iterable[Batch], objective: Objective, weights: Collection[str]) -> Arrays:
        """Return the mean gradient of the objective for each named kernel, for inference-mode normalization."""
        ...

    def trainer(self, course: Course) -> Trainer:
        """Begin to train: a fresh optimizer.

        Raises:
            TrainingError: If every value is frozen.
        """
        ...

    def state(self) -> Arrays:
        """Return every stored value by name, such as for a checkpoint; copies."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set every stored value to what `state` returned of a network of the same structure."""
        ...

    def clone(self) -> Network:
        """Return an independent copy, without masks."""
        ...

    def save(self, folder: Path) -> Path:
        """Write the model into an existing folder as its framework keeps it: plain, loaded by any tool.

        Returns:
            The file to give to ``ferry convert``.
        """
        ...

    def resized(self, state: Mapping[str, Array]) -> Network:
        """Return a network of this one's layers that stores these values, whose shapes say how large each layer is.

        Args:
            state: Every stored value, named as `state` names them; each of its own shape, or smaller on some axes.

        Raises:
            ConversionError: If the layers do not fit together, or what comes out cannot be run.
        """
        ...

    def channels(self) -> ChannelGraph:
        """Trace every channel through the model: which parts of which stored values belong together.

        Raises:
            ConversionError: If the model cannot be traced.
        """
        ...

    def simulated(self, grid: Grid) -> Simulated:
        """Return a network that computes as the quantized artifact will, and can be trained so.

        Raises:
            ConversionError: If the model cannot be rewritten.
        """
        ...


class Simulated(Network, Protocol):
    """A network with fake quantization."""

    @property
    def kept(self) -> Mapping[str, str]:
        """By layer, why it is not simulated as a whole."""
        ...

    def calibrate(self, inputs: Arrays) -> None:
        """Set the ranges of activations to the lowest and highest values that they have over samples.

        Args:
            inputs: By input name, of [samples, ...]. The first `SETTLED_SAMPLES` are what `settled` takes moments of.
        """
        ...

    def freeze(self) -> None:
        """Leave observed ranges as they are from here on; learned ones go on."""
        ...

    def settled(self) -> tuple[Network, Ranges]:
        """Return the plain float network, its normalization folded and its weights on the grid, and the ranges.

        Whatever quantizes its weights by their largest value finds the integers that training computed with.
        """
        ...
