"""Quantization of ONNX artifacts with onnxruntime.quantization.

``int8`` is QDQ with int8 activations and int8 weights, per channel, over true minima and maxima; ``dynamic`` has
int8 weights and quantizes activations when it runs; ``fp16`` stores weights as float16 and computes in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeferry_converter.data import Samples
from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.onnx_borders import make_borders_int8
from edgeferry_converter.quantize.onnx_prepare import graphs, prepare
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.engines.onnxruntime import import_engine
from edgeferry_runtime.errors import ConversionError, DataError
from edgeferry_runtime.tensors import Array

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
QUANTIZED_PREFIXES = ("QLinear", "QAttention", "QGemm", "ConvInteger", "MatMulInteger")
SMALLEST_FP16 = 256
"""Float weights of fewer elements stay float32: the cast would cost more bytes than it saves."""


def quantize_onnx(job: Job) -> dict[str, str]:
    """Quantize one float ``.onnx`` file; return the quantizer's version.

    Raises:
        ConversionError: If the file is quantized already, if nothing in it can be quantized, or if the quantizer
            refuses it.
        DataError: If a calibration sample does not fit.
    """
    onnx = require("ONNX quantization", "quantize", "onnx")
    import_engine("ONNX quantization")
    with foreign(job.subject, "onnx could not read it"):
        model = onnx.load(str(job.source))
    _refuse_quantized(job, model)
    borders = _borders(model)
    with tempfile.TemporaryDirectory(prefix="edgeferry-onnx-") as folder:
        float_file, file = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        with foreign(job.subject, "it could not be prepared for quantization", "use --quantize none"):
            prepare(model, float_file)
        with foreign(job.subject, "the quantizer refused it", "use another --quantize, or --quantize none"):
            _run(job, float_file, file)
            quantized = onnx.load(str(file))
            _refuse_untouched(job, quantized)
            if job.io_dtype == "int8" and job.samples is not None:
                make_borders_int8(quantized, _border_ranges(float_file, job.samples))
    _finish(job, quantized, borders)
    job.target.write_bytes(quantized.SerializeToString(deterministic=True))
    return {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}


def _run(job: Job, source: Path, target: Path) -> None:
    if job.precision == "fp16":
        _store_weights_as_float16(source, target)
    elif job.precision == "dynamic":
        _quantize_dynamic(source, target)
    elif job.samples is not None:
        _quantize_static(source, target, job.samples)
    else:
        raise DataError("--calibrate", "is missing, and int8 needs the ranges of activations", "give --calibrate DATA")


def _refuse_untouched(job: Job, model: Any) -> None:
    quantized = any(_is_quantizing(node) for graph in graphs(model.graph) for node in graph.node)
    if not quantized and not (job.precision == "fp16" and _has_float16(model)):
        raise ConversionError(job.subject, "has no operator that the quantizer supports", "use --quantize none")


def _finish(job: Job, model: Any, borders: list[tuple[str, list[Any], int]]) -> None:
    _drop_unused_domains(model)
    after = _borders(model)
    if [(name, shape) for name, shape, _ in borders] != [(name, shape) for name, shape, _ in after]:
        raise ConversionError(job.subject, "quantization changed its inputs or outputs", "use --quantize none")


def _borders(model: Any) -> list[tuple[str, list[Any], int]]:
    """Return name, dimensions and element type of the graph's inputs (without weights) and outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [*(v for v in model.graph.input if v.name not in weights), *model.graph.output]
    return [
        (v.name, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim], v.type.tensor_type.elem_type)
        for v in values
    ]


def _is_quantizing(node: Any) -> bool:
    return node.op_type in QUANTIZED_OPS or node.op_type.startswith(QUANTIZED_PREFIXES)


def _has_float16(model: Any) -> bool:
    from onnx import TensorProto

    return any(t.data_type == TensorProto.FLOAT16 for graph in graphs(model.graph) for t in graph.initializer)


def _refuse_quantized(job: Job, model: Any) -> None:
    nodes = (node for graph in graphs(model.graph) for node in graph.node)
    found = next((f"a {node.op_type} node" for node in nodes if _is_quantizing(node)), None)
    found = found or ("float16 weights" if _has_float16(model) else None)
    if found:
        fix = "give the float model, or use --quantize none to carry this one as it is"
        raise ConversionError(job.subject, f"is quantized already: it has {found}", fix)


class _Reader:
    """Samples in the form in which onnxruntime's calibration asks for them."""

    def __init__(self, samples: Samples) -> None:
        self._samples: Iterator[dict[str, Array]] = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample, or None after the last."""
        return next(self._samples, None)


def _quantize_static(source: Path, target: Path, samples: Samples) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    quantization.quantize_static(
        source,
        target,
        _Reader(samples),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


def _quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=sorted(IntegerOpsRegistry),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )


def _border_ranges(path: Path, samples: Samples) -> dict[str, tuple[float, float]]:
    """Run a float model over all samples and return the extremes of its inputs and outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    ranges: dict[str, tuple[float, float]] = {}
    for sample in samples:
        values = {**sample, **dict(zip(names, session.run(names, dict(sample)), strict=True))}
        for name, value in values.items():
            if value.dtype.kind == "f":
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = min(low, float(value.min(initial=0))), max(high, float(value.max(initial=0)))
    return ranges


def _store_weights_as_float16(source: Path, target: Path) -> None:
    """Halve each large float32 weight and put a Cast behind it; values beyond float16's range stay float32.

    Every engine has the Cast, and computes in float32: nothing depends on float16 kernels.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(source))
    for graph in graphs(model.graph):
        casts = []
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_FP16:
                continue
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
            casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_to_float32", to=TensorProto.FLOAT))
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    onnx.save(model, str(target))


def _drop_unused_domains(model: Any) -> None:
    """Leave out the operator sets that ONNX Runtime's optimizer declares and nothing uses."""
    used = {node.domain for graph in graphs(model.graph) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [o for o in model.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
