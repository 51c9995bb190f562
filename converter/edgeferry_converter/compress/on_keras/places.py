"""Where the artifact of a Keras model has a tensor of its own: there an activation is rounded to its grid.

What the converter fuses is one tensor: a layer of weights or a sum with the ReLU behind it. So is what only a
concatenation reads. What moves values has the grid of its input. The rest has a grid of its own; see
`edgeferry_converter.compress.grid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeferry_converter.compress.grid import FIXED
from edgeferry_converter.compress.on_keras.network import KINDS
from edgeferry_converter.compress.on_keras.walking import nodes

OWN, SAME, ROUNDED, NONE = "own", "same", "rounded", "none"
LINEAR, GATED = "linear", "silu"
FUSED = ("relu", "relu6")
"""The activations that become part of the operator before them."""

ABSENT = frozenset(
    (
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise"),
        *("GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity"),
    )
)
"""Layers that do nothing at inference."""
MOVES = frozenset(
    (
        *("Flatten", "Reshape", "Permute", "RepeatVector", "MaxPooling1D", "MaxPooling2D", "UpSampling1D"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D"),
        *("Transpose", "Squeeze", "ExpandDims", "GetItem", "Split"),
    )
)
AVERAGES = frozenset(("AveragePooling1D", "AveragePooling2D", "UpSampling2D"))
ARITHMETIC = frozenset(("Add", "Subtract", "Multiply"))
RECTIFIERS = frozenset(("ReLU", "Relu", "Relu6", "Activation"))
JOINS = frozenset(("Concatenate", "Maximum"))
"""What brings its inputs to its own grid; an input that nothing else reads is computed on that grid at once."""
KNOWN = frozenset(
    (
        *("Concatenate", "Maximum", "Minimum", "Average", "GlobalAveragePooling1D", "GlobalAveragePooling2D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "ReLU", "Relu", "Relu6", "LeakyReLU", "PReLU", "ELU"),
        *("Activation", "Softmax", "Sigmoid", "Tanh", "Gelu", "Silu", "Rescaling", "BatchNormalization"),
    )
)
UNWEIGHED = frozenset(("Conv3D", "EinsumDense"))
"""Layers of weights that are not simulated: the artifact has them as other operators, or float."""


@dataclass(frozen=True)
class Place:
    """What happens to the result of one call.

    Attributes:
        kind: `OWN` (a grid of its own), `SAME` (values stay on the grid of the input), `ROUNDED` (to the grid of the
            input) or `NONE` (what comes next rounds it).
        fixed: The range that the operator fixes, where it does.
        apart: The activation of a layer of weights that is an operator of its own; the sum is then a tensor too.
    """

    kind: str
    fixed: tuple[float, float] | None = None
    apart: str = ""


def find(model: Any) -> dict[int, Place]:
    """Return the place of each call of a model, by the id of its node."""
    every = list(nodes(model))
    readers: dict[int, list[Any]] = {}
    for node in every:
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    outputs = {id(tensor) for tensor in model.outputs}
    return {id(node): _place(node, readers, outputs) for node in every}


def strangers(model: Any) -> dict[str, str]:
    """Return by name the layers that are not known here, with what that means."""
    why = "its kind is not known here: what it gives is rounded, what it does inside is not simulated"
    alone = "its weights are not simulated: the artifact has no integer operator of its kind"
    found = {}
    for node in nodes(model):
        kind = type(node.operation).__name__
        if kind in UNWEIGHED:
            found[node.operation.name] = alone
        elif kind not in ABSENT | MOVES | AVERAGES | ARITHMETIC | KNOWN | set(KINDS):
            found[node.operation.name] = why
    return found


def is_weighed(layer: Any) -> bool:
    """Tell whether a layer's kernel lies on a grid."""
    kind = type(layer).__name__
    return kind in KINDS and kind not in UNWEIGHED


def activation_of(operation: Any) -> str:
    """Return what a layer or an operation does element by element at its end; ``linear`` is nothing."""
    kind = type(operation).__name__
    if kind == "ReLU":
        return _relu(operation)
    if kind in ("Relu", "Relu6", "Softmax", "Sigmoid", "Tanh", "Gelu", "Silu"):
        return kind.lower()
    return str(getattr(getattr(operation, "activation", None), "__name__", LINEAR))


def _relu(layer: Any) -> str:
    if layer.negative_slope or layer.threshold:
        return "leaky_relu"
    return {None: "relu", 6: "relu6"}.get(layer.max_value, "clip")


def _place(node: Any, readers: Mapping[int, list[Any]], outputs: set[int]) -> Place:
    operation = node.operation
    kind, activation = type(operation).__name__, activation_of(operation)
    if kind in ABSENT or (kind == "Activation" and activation == LINEAR):
        return Place(SAME)
    if kind in MOVES or (kind == "UpSampling2D" and operation.interpolation == "nearest"):
        return Place(SAME)
    if kind in AVERAGES:
        return Place(ROUNDED)
    fixed = FIXED.get(activation)
    if activation not in (LINEAR, *FUSED):
        return Place(OWN, fixed, activation if is_weighed(operation) else "")
    after = _only(node.outputs[0], readers, outputs)
    ends = activation == LINEAR and (is_weighed(operation) or kind in ARITHMETIC)
    fused = ends and type(after).__name__ in RECTIFIERS and activation_of(after) in FUSED
    joined = kind not in JOINS and type(after).__name__ in JOINS
    return Place(NONE if fused or joined else OWN)


def _only(tensor: Any, readers: Mapping[int, list[Any]], outputs: set[int]) -> Any:
    """Return the operation that alone reads a tensor; None where there are several, or it is an output."""
    after = list(_readers(tensor, readers, outputs))
    return after[0].operation if after and None not in after and len({id(n) for n in after}) == 1 else None


def _readers(tensor: Any, readers: Mapping[int, list[Any]], outputs: set[int]) -> Iterator[Any]:
    """Yield the calls that read a tensor, through layers that do nothing; None stands for the model's output."""
    if id(tensor) in outputs:
        yield None
    for node in readers.get(id(tensor), ()):
        if type(node.operation).__name__ in ABSENT:
            yield from _readers(node.outputs[0], readers, outputs)
        else:
            yield node
