"""What an NPU takes through LiteRT, by the one list that is published: Qualcomm's. Those of other makers differ.

Source: litert/vendors/qualcomm/compiler/Qualcomm_QNN_Compiler.md of LiteRT, and ai.google.dev, "NPU acceleration with
LiteRT": sizes are constant.
"""

from __future__ import annotations

from edgeferry_runtime.lint.graph import Node, Value
from edgeferry_runtime.lint.rules import Objection, operators

OPERATORS = operators(
    """
ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CEIL CONCATENATION CONV_2D CONV_3D COS CUMSUM
DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV
FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS
LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1
RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE
SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE
TRANSPOSE_CONV UNPACK
"""
)
REFUSED = ("string", "complex64", "complex128", "resource", "variant", "bfloat16")


def objection(node: Node) -> Objection | None:
    """Say what stands against a node."""
    if node.operator == "STABLEHLO_COMPOSITE":
        return Objection("RMS, group and L2 norms are taken, other composites are not", sure=False)
    if node.operator not in OPERATORS:
        return Objection("is no operator of Qualcomm's list")
    if any(value and value.variable for value in node.inputs):
        return Objection("keeps a variable between runs, which LiteRT's accelerators do not load")
    if any(value and value.blockwise for value in node.inputs):
        return Objection("has weights that are quantized in blocks")
    return next(filter(None, map(_value, node.data)), None)


def _value(value: Value) -> Objection | None:
    if value.dtype in REFUSED:
        return Objection(f"computes in {value.dtype}")
    return Objection("has a dynamic size; sizes must be constant") if -1 in value.shape else None
