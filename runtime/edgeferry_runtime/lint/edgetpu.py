"""What the Edge TPU's compiler takes.

Source: coral.ai, "TensorFlow models on the Edge TPU": the model requirements, and the table of supported operations
with their limitations, for runtime 14 (edgetpu_compiler 16). Its limitation of DEPTHWISE_CONV_2D to dilation 1 is left
out: the compiler took Coral's own DeepLab, which has dilation 2. Its RESIZE operators "might not be mapped".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeferry_runtime.lint.graph import Node
from edgeferry_runtime.lint.rules import Objection, operators

OPERATORS = operators(
    """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1
RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
"""
)
STORED = ("int8", "uint8")
SOFTMAX_ELEMENTS = 16_000
FUSED = Objection("has a fused activation")
BATCH = Objection("works along the batch dimension")
PRECISION = Objection(
    "depending on its sizes the compiler leaves it to the CPU, to avoid loss of precision", sure=False
)


def objection(node: Node) -> Objection | None:
    """Say what stands against a node."""
    if node.operator not in OPERATORS:
        return Objection("is no operator of the Edge TPU")
    return _tensors(node) or (LIMITS[node.operator](node) if node.operator in LIMITS else None)


def _tensors(node: Node) -> Objection | None:
    for value in node.data:
        if value.dtype not in STORED:
            return Objection(f"computes in {value.dtype}; the model must be quantized to int8 in full")
        if -1 in value.shape:
            return Objection("has a dynamic size; sizes must be constant")
        if any(dim > 1 for dim in value.shape[:-3]):
            return Objection("has more than three dimensions that are larger than 1, the batch among them")
    if any(value and value.constant and value.dtype.startswith("float") for value in node.inputs):
        return Objection("has float constants; the model must be quantized to int8 in full")
    return None


def _pool(node: Node) -> Objection | None:
    return FUSED if node.option_byte(5) else None


def _concatenation(node: Node) -> Objection | None:
    if node.option_byte(1):
        return FUSED
    constant = any(value and value.constant for value in node.inputs)
    return Objection("joins a constant, which must be zeros, and one tensor only", sure=False) if constant else None


def _convolution(node: Node) -> Objection | None:
    wide, high = (node.option(slot) or 1 for slot in (4, 5))
    return Objection(f"has unequal dilations, {high} and {wide}") if wide != high else None


def _fully_connected(node: Node) -> Objection | None:
    if node.option_byte(1):
        return Objection("has weights in another format than the default")
    output = node.outputs[0]
    if output.elements != output.shape[-1]:
        return Objection("has an output of more than one dimension")
    return None


def _axes(node: Node, place: int) -> tuple[int, ...]:
    """Return the axes that a constant names, counted from the first."""
    named, data = node.input(place), node.input(1 - place)
    rank = len(data.shape) if data else 0
    return tuple(axis + rank if axis < 0 else axis for axis in (named.ints if named else ()))


def _reduction(node: Node) -> Objection | None:
    axes, data = _axes(node, 1), node.input(0)
    if data and len(data.shape) > 1 and 0 in axes:
        return BATCH
    if node.operator == "MEAN" and data and len(data.shape) - 1 in axes and data.shape[-1] % 4:
        return Objection(f"averages {data.shape[-1]} channels, which is no multiple of 4")
    return None


def _pack(node: Node) -> Objection | None:
    return BATCH if not node.option(1) else None


def _split(node: Node) -> Objection | None:
    return BATCH if 0 in _axes(node, 0) else None


def _prelu(node: Node) -> Objection | None:
    alpha = node.input(1)
    wide = alpha is not None and alpha.elements != (alpha.shape or (1,))[-1]
    return Objection("has a slope for more than each channel") if wide else None


def _softmax(node: Node) -> Objection | None:
    output = node.outputs[0]
    if output.elements != (output.shape or (1,))[-1]:
        return Objection("has an input of more than one dimension")
    if output.elements > SOFTMAX_ELEMENTS:
        return Objection(f"has {output.elements} elements, and at most {SOFTMAX_ELEMENTS} are taken")
    return None


def _strided_slice(node: Node) -> Objection | None:
    strides = node.input(3)
    if node.option(2) or node.option(3):
        return Objection("has an ellipsis or a new axis")
    return Objection("has strides other than 1") if strides is None or set(strides.ints) != {1} else None


LIMITS: Mapping[str, Callable[[Node], Objection | None]] = {
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduction),
    "PACK": _pack,
    "SPLIT": _split,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
    "RESIZE_BILINEAR": lambda node: PRECISION,
    "RESIZE_NEAREST_NEIGHBOR": lambda node: PRECISION,
}
"""By operator, the limitations of Coral's table."""
