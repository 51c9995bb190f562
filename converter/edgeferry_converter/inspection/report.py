"""What an inspection found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeferry_runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Layer:
    """One operation of a model.

    Attributes:
        name: As the file has it.
        operator: The format's name of the operation.
        shape: Of its first output, -1 where dynamic; None where unknown.
        activation: Dtype of the data that flows into it; "" where unknown.
        weight: Dtype of its weights as they are stored; "" where it has none.
        parameters: How many weights belong to it. Shared ones belong to the first layer that uses them.
        weight_bytes: What they take in the file.
        macs: Multiply-accumulates of one run with a batch of one; None where a shape is unknown.
    """

    name: str
    operator: str
    shape: tuple[int, ...] | None = None
    activation: str = ""
    weight: str = ""
    parameters: int = 0
    weight_bytes: int = 0
    macs: int | None = 0

    @property
    def precision(self) -> str:
        """Activations and weights in one word, such as ``float32``, or ``float32 x int8`` where they differ."""
        if not self.weight or self.weight == self.activation:
            return self.activation or self.weight
        return f"{self.activation or '?'} x {self.weight}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        shape = None if self.shape is None else list(self.shape)
        return {**vars(self), "shape": shape, "precision": self.precision}


@dataclass(frozen=True)
class Operator:
    """All operations of one kind; figures are sums over its layers."""

    name: str
    count: int
    parameters: int
    weight_bytes: int
    macs: int | None
    precisions: Mapping[str, int]


@dataclass(frozen=True)
class Inspection:
    """What a model file tells about itself.

    Attributes:
        path: The file or folder.
        format: ``tflite``, ``onnx``, ``keras``, ``h5``, ``savedmodel``, ``exported`` or ``torchscript``.
        size: Bytes on disk.
        inputs: Names, shapes, dtypes and scales. A dtype of "" means that the file tells neither dtype nor shape.
        outputs: Likewise.
        layers: Every operation, in the order of execution.
        arena_bytes: Estimate of the memory for activations; None where it cannot be told.
        transposes: Layers that do nothing but change NCHW to NHWC or back.
        custom: Operators that are not the format's own.
        flex: Operators of TensorFlow that need its Flex delegate.
        metadata: What the file says besides the model.
        notes: What could not be told, and why.
    """

    path: Path
    format: str
    size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...] = ()
    arena_bytes: int | None = None
    transposes: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()
    flex: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run; None where a layer's are unknown."""
        return _sum(self.layers)

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The layers by kind, the most frequent kind first."""
        kinds: dict[str, list[Layer]] = {}
        for layer in self.layers:
            kinds.setdefault(layer.operator, []).append(layer)
        return tuple(_operator(name, kinds[name]) for name in sorted(kinds, key=lambda k: (-len(kinds[k]), k)))

    @property
    def largest(self) -> tuple[Layer, ...]:
        """The layers with weights, the largest first."""
        return tuple(sorted((x for x in self.layers if x.parameters), key=lambda x: -x.weight_bytes))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        tensors = ("inputs", "outputs")
        derived = {"parameters": self.parameters, "macs": self.macs, "operators": [vars(o) for o in self.operators]}
        return {
            **vars(self),
            "path": str(self.path),
            **{key: [spec.to_dict() for spec in getattr(self, key)] for key in tensors},
            **derived,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def _sum(layers: tuple[Layer, ...] | list[Layer]) -> int | None:
    known = [layer.macs for layer in layers if layer.macs is not None]
    return sum(known) if len(known) == len(layers) else None


def _operator(name: str, layers: list[Layer]) -> Operator:
    precisions = Counter(layer.precision for layer in layers)
    parameters, size = sum(x.parameters for x in layers), sum(x.weight_bytes for x in layers)
    return Operator(name, len(layers), parameters, size, _sum(layers), dict(precisions))
