"""A network as its layers, whose every tensor can be computed: from the inputs, or from any tensors that are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.tensors import Array, Quantization


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        kind: What it does, in the words of its format: ``CONV_2D``, ``Conv``.
        name: What an override calls it: its first output's name in TFLite, the node's name in ONNX.
        inputs: Names of the tensors that it reads, constants among them.
        outputs: Names of the tensors that it writes.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """How a tensor is stored.

    Attributes:
        quantization: Scale and zero point.
        dtype: The integer dtype.
    """

    quantization: Quantization
    dtype: str

    def limits(self) -> tuple[float, float]:
        """Return the lowest and highest real value; of the narrowest channel where there are several."""
        edges = np.iinfo(self.dtype)
        zero, scale = self.quantization.zero_point[0], min(self.quantization.scale)
        return (int(edges.min) - zero) * scale, (int(edges.max) - zero) * scale

    def round(self, real: Array) -> Array:
        """Return real values as they come out of storage."""
        return self.quantization.dequantize(self.quantization.quantize(real, self.dtype))


@dataclass(frozen=True)
class Program:
    """A part of a network, ready to run.

    Attributes:
        path: The file that it was cut from.
        reads: The tensors that it needs.
        run: Computes real values by tensor name from real values by tensor name.
    """

    path: Path
    reads: tuple[str, ...]
    run: Callable[[Mapping[str, Array]], dict[str, Array]]

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises:
            EngineError: If the engine fails.
        """
        with foreign(self.path, "its engine could not run a part of it", error=EngineError):
            return self.run(values)


class Network(Protocol):
    """A model file as its layers.

    Attributes:
        ops: In order of execution.
        inputs: The tensor of each input, by the input's name.
    """

    ops: tuple[Op, ...]
    inputs: Mapping[str, str]

    def size(self, name: str) -> int:
        """Return the bytes that a float activation takes; a guess where the shape is open."""
        ...

    def activations(self) -> tuple[str, ...]:
        """Return the tensors that hold real values and are computed, in order of execution."""
        ...

    def constant(self, name: str) -> Array | None:
        """Return the values of a weight as they are stored; None for what is computed."""
        ...

    def stored(self, name: str) -> Stored | None:
        """Tell how a tensor is stored; None where it is float."""
        ...

    def program(self, wanted: Sequence[str], given: Collection[str]) -> Program:
        """Make what computes the wanted tensors, from those given tensors that lie on the way.

        Raises:
            EngineError: If the engine refuses that part.
        """
        ...


def open_network(path: Path) -> Network:
    """Read a ``.tflite`` or ``.onnx`` file.

    Raises:
        ArtifactError: If it is neither, or damaged.
        MissingExtraError: If what reads its format is not installed.
    """
    from edgeferry_runtime.guard import check_artifact

    if check_artifact(path) == "tflite":
        from edgeferry_converter.explain.tflite_network import TfliteNetwork

        return TfliteNetwork(path)
    from edgeferry_converter.explain.onnx_network import OnnxNetwork

    return OnnxNetwork(path)


def upstream(ops: Sequence[Op], wanted: Collection[str], given: Collection[str]) -> list[int]:
    """Return which operators compute `wanted` where `given` are known, in order of execution.

    A wanted tensor is computed even where it is given.
    """
    needed = set(wanted)
    kept = []
    for index in reversed(range(len(ops))):
        if needed.intersection(ops[index].outputs):
            kept.append(index)
            needed.update(name for name in ops[index].inputs if name not in given)
    return kept[::-1]
