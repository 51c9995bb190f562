"""Whether an output holds probabilities or logits: read from the operator that computes it, never from the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeferry_runtime.flatbuffer import Buffer, Table, map_file
from edgeferry_runtime.onnx_wire import read_nodes
from edgeferry_runtime.tflite_file import read_tflite

BUILTINS: Mapping[int, str] = {
    0: "ADD",
    3: "CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    22: "RESHAPE",
    25: "SOFTMAX",
    43: "SQUEEZE",
    50: "LOG_SOFTMAX",
    53: "CAST",
    70: "EXPAND_DIMS",
    114: "QUANTIZE",
    126: "BATCH_MATMUL",
}
"""TFLite's operators that matter here; an ADD, a CONV_2D or a FULLY_CONNECTED may hold an activation too."""
ACTIVATION_SLOTS: Mapping[str, int] = {"ADD": 0, "CONV_2D": 3, "FULLY_CONNECTED": 0}

ADDITIONS = {"ADD", "Add"}
CARRIERS = {
    *("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CAST"),
    *("DequantizeLinear", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Flatten", "Identity"),
}
"""Operators that change how values are stored, and not what they are."""
PROBABILITIES = {"SOFTMAX", "LOGISTIC", "Softmax", "Sigmoid"}
LOGITS = {
    *("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL", "LOG_SOFTMAX"),
    *("Gemm", "MatMul", "Conv", "LogSoftmax", "QLinearMatMul", "QLinearConv", "QGemm"),
}
"""Linear operators; and the logarithm of a softmax, whose softmax is the softmax."""

Graph = Mapping["int | str", "tuple[str, tuple[int | str, ...]]"]
"""By tensor: the operator that computes it, and that operator's inputs."""


@dataclass(frozen=True)
class Scores:
    """What an output's values are.

    Attributes:
        logits: Whether a softmax is still to be applied; else they are probabilities.
        because: How that was decided, in words.
    """

    logits: bool
    because: str


def read_scores(path: Path, format_name: str, output: str) -> Scores | None:
    """Tell what the scores of an output are.

    Args:
        path: A verified artifact.
        format_name: ``tflite`` or ``onnx``.
        output: The name of the output.

    Returns:
        None where the operator that computes them does not tell.
    """
    with map_file(path) as data:
        tensor, graph = _tflite_graph(data, output) if format_name == "tflite" else (output, _onnx_graph(data))
    return _judge(tensor, graph)


def _judge(tensor: int | str, graph: Graph) -> Scores | None:
    operator, inputs = _origin(tensor, graph)
    if operator in ADDITIONS:
        added = (_origin(source, graph)[0] for source in inputs)
        operator = next((name for name in added if name in LOGITS), "")
    if operator in PROBABILITIES:
        return Scores(False, f"its scores are probabilities: {operator} computes them")
    if operator in LOGITS:
        return Scores(True, f"its scores are logits: {operator} computes them; softmax is applied to them")
    return None


def _origin(tensor: int | str, graph: Graph) -> tuple[str, tuple[int | str, ...]]:
    """Go back from a tensor to the operator that makes its values what they are."""
    operator: str = ""
    inputs: tuple[int | str, ...] = (tensor,)
    for _ in range(len(graph) + 1):
        operator, inputs = graph.get(inputs[0], ("", ()))
        if operator not in CARRIERS or not inputs:
            break
    return operator, inputs


def _tflite_graph(data: Buffer, output: str) -> tuple[int, Graph]:
    """Return the tensor of an output, and the graph that it is in."""
    model, signature = Table.root(data), read_tflite(data).primary
    subgraph = model.tables(2)[signature.subgraph if signature else 0]
    targets, tensors = subgraph.ints(2), subgraph.tables(0)
    names = {tensors[index].text(3): index for index in targets}
    numbered = {f"output_{i}": index for i, index in enumerate(targets)}
    tensor = {**numbered, **names, **(signature.outputs if signature else {})}.get(output, -1)
    codes = [max(code.u8(0), code.u32(3)) for code in model.tables(1)]
    graph: dict[int | str, tuple[str, tuple[int | str, ...]]] = {}
    for operator in subgraph.tables(3):
        name = BUILTINS.get(codes[operator.u32(0)], "")
        options = operator.table(4)
        active = name in ACTIVATION_SLOTS and options and options.u8(ACTIVATION_SLOTS[name])
        graph |= {made: ("" if active else name, operator.ints(1)) for made in operator.ints(2)}
    return tensor, graph


def _onnx_graph(data: Buffer) -> Graph:
    return {made: (node.operator, node.inputs) for node in read_nodes(data) for made in node.outputs if made}
