"""What LiteRT's GPU accelerator (ML Drift on WebGPU) takes.

Sources: which operators and types, as LiteRT 2.3 itself refused or took one model of each on a software Vulkan; further
limits, TensorFlow's tensorflow/lite/tools/versioning/gpu_compatibility.cc, from which ML Drift comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeferry_runtime.lint.graph import Node
from edgeferry_runtime.lint.rules import Objection, operators

OPERATORS = operators(
    """
ABS ADD ADD_N ARG_MAX ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY
DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV
FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2
POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE
TRANSPOSE_CONV UNPACK
"""
)
STORED = ("float32", "float16", "int32", "int8", "uint8", "bool")
INT16_TAKEN = ("ADD", "SUB", "MUL", "PAD", "STRIDED_SLICE", "QUANTIZE", "DEQUANTIZE")
"""Operators that were seen to be taken with int16."""
INT16_REFUSED = ("CONV_2D", "LEAKY_RELU", "BATCH_MATMUL")
SIZES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("RESHAPE", "TILE", "PAD", "PADV2", "MIRROR_PAD", "TOPK_V2", "TRANSPOSE"), (1,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (1,)),
    "TRANSPOSE_CONV": (0,),
    "SLICE": (2,),
    "STRIDED_SLICE": (1, 2, 3),
}
"""By operator, the inputs that decide the size of the output."""
PIXELS = (3, 4)


def objection(node: Node) -> Objection | None:
    """Say what stands against a node."""
    if node.operator == "STABLEHLO_COMPOSITE":
        return Objection("it depends on the composite whether the accelerator knows it", sure=False)
    if node.operator not in OPERATORS:
        return Objection("is no operator of LiteRT's GPU accelerator")
    return _tensors(node) or (LIMITS[node.operator](node) if node.operator in LIMITS else None)


def _tensors(node: Node) -> Objection | None:
    if any(value and value.variable for value in node.inputs):
        return Objection("keeps a variable between runs, which LiteRT's accelerators do not load")
    if any(value and value.blockwise for value in node.inputs):
        return Objection("has weights that are quantized in blocks, of which the accelerator dies")
    for place in SIZES.get(node.operator, ()):
        size = node.input(place)
        if size is not None and not size.constant:
            return Objection("has a size that is only known at run time")
    for value in node.data:
        if value.dtype == "int16" and node.operator not in INT16_TAKEN:
            return Objection("computes in int16", sure=node.operator in INT16_REFUSED)
        if value.dtype not in (*STORED, "int16"):
            return Objection(f"computes in {value.dtype}")
    return None


def _inputs(count: int) -> Callable[[Node], Objection | None]:
    return lambda node: None if len(node.inputs) == count else Objection(f"has {len(node.inputs)} inputs, not {count}")


def _pixels(node: Node) -> Objection | None:
    data = node.input(0)
    rank = len(data.shape) if data else 0
    return None if rank in PIXELS else Objection(f"has {rank} dimensions; 3 and 4 are surely taken", sure=False)


def _strided_slice(node: Node) -> Objection | None:
    if node.option(2) or node.option(3) or node.option(4):
        return Objection("has an ellipsis, or adds or removes an axis", sure=False)
    return _pixels(node)


LIMITS: Mapping[str, Callable[[Node], Objection | None]] = {
    "ADD_N": _inputs(2),
    "SLICE": _pixels,
    "STRIDED_SLICE": _strided_slice,
}
"""By operator, what else is asked of it."""
