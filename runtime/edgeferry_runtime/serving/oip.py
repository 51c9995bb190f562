"""What REST and gRPC share of the Open Inference Protocol: what is said of a model, and classes in place of scores."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from edgeferry_runtime.serving.datatypes import datatype
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.tensors import Array, TensorSpec

SERVER = "edgeferry"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
PLATFORMS = {"tflite": "litert_tflite", "onnx": "onnxruntime_onnx"}
"""By a bundle's format, the platform in the protocol's form ``<project>_<format>``."""


def describe(lane: Lane) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Describe inputs and outputs, as the protocol's model metadata does.

    The first dimension is -1 where a model of a fixed batch takes any number of rows, one batch after the other.

    Returns:
        For each input, and for each output, its ``name``, ``datatype`` and ``shape``; of a quantized one, whose
        datatype is FP32, also ``parameters``: ``stored_datatype``, ``scale`` and ``zero_point``, with lists along
        ``axis`` where each channel has its own.
    """
    heads = {spec.shape[0] if spec.shape else 0 for spec in (*lane.inputs, *lane.outputs)}
    any_rows = len(heads) == 1 and min(heads) > 0
    inputs, outputs = ([_tensor(spec, any_rows) for spec in specs] for specs in (lane.inputs, lane.outputs))
    return inputs, outputs


def _tensor(spec: TensorSpec, any_rows: bool) -> dict[str, Any]:
    shape = [-1, *spec.shape[1:]] if any_rows else list(spec.shape)
    said: dict[str, Any] = {"name": spec.name, "datatype": datatype(spec), "shape": shape}
    if spec.quantization:
        said["parameters"] = {"stored_datatype": datatype(spec, stored=True), **_affine(spec)}
    return said


def _affine(spec: TensorSpec) -> dict[str, Any]:
    quantization = spec.quantization
    assert quantization
    if quantization.axis is None:
        return {"scale": quantization.scale[0], "zero_point": quantization.zero_point[0]}
    scale, zero_point = list(quantization.scale), list(quantization.zero_point)
    return {"scale": scale, "zero_point": zero_point, "axis": quantization.axis}


def best_classes(name: str, values: Array, count: int, labels: Sequence[str]) -> Array:
    """Put the most likely classes of each row in place of its values.

    Source: Triton Inference Server, "Classification Extension".

    Args:
        name: The output.
        values: Its values: of two or more axes, the first counts rows; of fewer, there is one row.
        count: How many classes of each row; fewer where it has fewer.
        labels: A name for each class; not used where there are more or fewer classes.

    Returns:
        Text of shape [rows, count], or [count] without an axis of rows: ``VALUE:INDEX``, and ``:LABEL`` where there
        is one; the highest value first, of equal ones the lowest index.

    Raises:
        RefusedError: INVALID, if it holds text.
    """
    if values.dtype.kind == "O":
        raise RefusedError(
            Kind.INVALID, f"output {name[:80]!r}", "holds text, no values of classes", "ask for its data"
        )
    lead, tail = (values.shape[:1], values.shape[1:]) if values.ndim > 1 else ((), values.shape)
    rows = values.reshape(prod(lead), prod(tail))
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    names = [f":{label}" for label in labels] if len(labels) == rows.shape[1] else [""] * rows.shape[1]
    found: Array = np.empty(order.shape, object)
    for row, best in enumerate(order):
        found[row] = [f"{rows[row, index]!s}:{index}{names[index]}" for index in best]
    return found.reshape((*lead, order.shape[1]))
