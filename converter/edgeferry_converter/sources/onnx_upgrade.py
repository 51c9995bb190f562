"""ONNX models brought up to date: sizes pinned, weights no inputs any more, and the current operator set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_converter.onnx_file import is_split
from edgeferry_converter.quiet import quiet, summary

OPSET = 21
"""The first with 16-bit and int4 quantization; ONNX Runtime runs it since 1.20."""

IR_VERSION = 10
"""The format of files with operator set 21."""


def pin(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give inputs these sizes; symbols that become known become known everywhere. A size of -1 stays open."""
    known: dict[str, int] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            if size > 0 and dim.dim_param:
                known[dim.dim_param] = size
            if size > 0:
                dim.dim_value = size
    if not shapes:
        return
    del model.graph.value_info[:]  # inferred again, from the sizes that are known now
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]


def upgrade(model: Any) -> tuple[Any, str]:
    """Bring a model to `OPSET`; one that is newer stays.

    One whose weights lie in other files is not checked: that needs the file.

    Returns:
        The model, and what is to be said of it; a model that onnx cannot convert stays as it is.
    """
    from onnx import checker, version_converter

    _weights_are_no_inputs(model)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return model, ""
    try:
        with quiet():
            raised = version_converter.convert_version(model, OPSET)
            raised.ir_version = max(raised.ir_version, IR_VERSION)
            if not is_split(raised):
                checker.check_model(raised)
    except (RuntimeError, ValueError, TypeError, checker.ValidationError) as error:
        return model, f"it stays at ONNX operator set {version}, because onnx cannot raise it ({summary(error)[:160]})"
    return raised, f"raised from ONNX operator set {version} to {OPSET}"


def _weights_are_no_inputs(model: Any) -> None:
    """Take weights out of the graph's inputs, where files before IR version 4 had to list them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, IR_VERSION)
