"""Quantization of ONNX artifacts with onnxruntime.quantization.

``int8`` is QDQ with int8 (or uint8) activations and int8 weights, per channel, ``int16x8`` the same with 16-bit
activations; ``dynamic`` has int8 weights and quantizes activations when it runs; ``weight-only`` has int8 weights
and computes in float32, as ``fp16`` does with float16 weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeferry_converter.overrides import Layer, resolve
from edgeferry_converter.quantize import Job, Outcome
from edgeferry_converter.quantize.calibration.methods import Range
from edgeferry_converter.quantize.calibration.observer import Statistics
from edgeferry_converter.quantize.onnx_borders import make_borders_integer
from edgeferry_converter.quantize.onnx_prepare import graphs, prepare
from edgeferry_converter.quantize.onnx_static import calibrated_ranges, observe, quantize_static
from edgeferry_converter.quantize.onnx_weights import quantize_weights
from edgeferry_converter.quantize.support import STATIC
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.engines.onnxruntime import import_engine
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.scratch import scratch

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
QUANTIZED_PREFIXES = ("QLinear", "QAttention", "QGemm", "ConvInteger", "MatMulInteger")
STORED = {1: "float32", 2: "int8", 3: "int8", 10: "float16", 21: "int4", 22: "int4"}
"""What `TensorProto` calls the types of weights."""
WITH_WEIGHTS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"),
    *("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"),
)
SMALLEST_FP16 = 256
"""Float weights of fewer elements stay float32: the cast would cost more bytes than it saves."""


def quantize_onnx(job: Job) -> Outcome:
    """Quantize one float ``.onnx`` file.

    Raises:
        UsageError: If an override matches no layer.
        ConversionError: If the file is quantized already, if nothing in it can be quantized, or if the quantizer
            refuses it.
        DataError: If a calibration sample does not fit.
    """
    model = _read(job)
    import onnx

    borders = _borders(model)
    with scratch() as folder:
        float_file, file = folder / "float.onnx", folder / "quantized.onnx"
        with foreign(job.subject, "it could not be prepared for quantization", "use --quantize none"):
            prepare(model, float_file)
        with foreign(job.subject, "the quantizer refused it", "use another --quantize, or --quantize none"):
            ranges = calibrated_ranges(job, float_file) if job.precision in STATIC else {}
            _run(job, float_file, file, ranges)
            quantized = onnx.load(str(file))
            _refuse_untouched(job, quantized)
            if job.io_dtype != "float32":
                make_borders_integer(quantized, ranges, unsigned=job.io_dtype == "uint8")
    _finish(job, quantized, borders)
    job.target.write_bytes(quantized.SerializeToString(deterministic=True))
    return Outcome({"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}, stored_layers(quantized))


def observe_onnx(job: Job) -> Statistics:
    """Run one float ``.onnx`` file over all samples and keep what every calibration method needs.

    Raises:
        ConversionError: If the file is quantized already, or the engine refuses it.
        DataError: If a sample does not fit.
    """
    model = _read(job)
    with scratch() as folder:
        float_file = folder / "float.onnx"
        with foreign(job.subject, "it could not be prepared for quantization", "use --quantize none"):
            prepare(model, float_file)
        with foreign(job.subject, "the engine could not run it for calibration", "use --quantize dynamic"):
            return observe(float_file, job.samples or (), histograms=True)


def _read(job: Job) -> Any:
    onnx = require("ONNX quantization", "quantize", "onnx")
    import_engine("ONNX quantization")
    with foreign(job.subject, "onnx could not read it"):
        model = onnx.load(str(job.source))
    _refuse_quantized(job, model)
    return model


def _run(job: Job, source: Path, target: Path, ranges: Mapping[str, Range]) -> None:
    import onnx

    model = onnx.load(str(source))
    excluded = _excluded(job, model)
    if job.precision == "dynamic":
        _quantize_dynamic(source, target, excluded)
    elif job.precision in STATIC:
        _quantize_static(job, source, target, ranges, excluded)
    elif job.precision == "fp16":
        _store_weights_as_float16(model, excluded)
        onnx.save(model, str(target))
    else:
        onnx.save(quantize_weights(model, job.precision, job.block_size, excluded), str(target))


def _excluded(job: Job, model: Any) -> list[str]:
    """Return the names of the nodes that an override keeps float; an override may name their outputs too.

    Dynamic quantization first makes each Gemm a MatMul with a name of its own.
    """
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    layers = [Layer((node.name, *node.output), node.op_type) for node in nodes]
    kept = sorted(nodes[i].name for i in resolve(job.overrides, layers))
    return [*kept, *(f"{name}_MatMul" for name in kept)]


def stored_layers(model: Any) -> dict[str, int]:
    """Count the layers with weights by what they store them as."""
    found: Counter[str] = Counter()
    for graph in graphs(model.graph):
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
        for node in graph.node:
            if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in stored:
                stored[node.output[0]] = stored[node.input[0]]
        for node in graph.node:
            if node.op_type in WITH_WEIGHTS and node.input[1] in stored:
                found[STORED.get(stored[node.input[1]], "other")] += 1
    return dict(sorted(found.items()))


def _refuse_untouched(job: Job, model: Any) -> None:
    quantized = any(_is_quantizing(node) for graph in graphs(model.graph) for node in graph.node)
    if not quantized and not (job.precision == "fp16" and _has_float16(model)):
        raise ConversionError(job.subject, "has no operator that the quantizer supports", "use --quantize none")
    if job.precision == "weight-only-int4" and "int4" not in stored_layers(model):
        reason = "has no matrix multiplication, and nothing else becomes int4"
        raise ConversionError(job.subject, reason, "use --quantize weight-only")


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


def _quantize_static(
    job: Job, source: Path, target: Path, ranges: Mapping[str, Range], excluded: Collection[str]
) -> None:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    eight = QuantType.QUInt8 if job.activations == "uint8" else QuantType.QInt8
    quantize_static(
        source,
        target,
        ranges,
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        per_channel=True,
        activation_type=QuantType.QInt16 if job.precision == "int16x8" else eight,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(excluded),
    )


def _quantize_dynamic(source: Path, target: Path, excluded: Collection[str]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=sorted(IntegerOpsRegistry),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=list(excluded),
    )


def _store_weights_as_float16(model: Any, excluded: Collection[str]) -> None:
    """Halve each large float32 weight and put a Cast behind it; values beyond float16's range stay float32.

    Every engine has the Cast, and computes in float32: nothing depends on float16 kernels.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for graph in graphs(model.graph):
        casts = []
        kept = {name for node in graph.node if node.name in excluded for name in node.input}
        for tensor in graph.initializer:
            small = np.prod(tensor.dims) < SMALLEST_FP16
            if tensor.data_type != TensorProto.FLOAT or small or tensor.name in kept:
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


def _drop_unused_domains(model: Any) -> None:
    """Leave out the operator sets that ONNX Runtime's optimizer declares and nothing uses."""
    used = {node.domain for graph in graphs(model.graph) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [o for o in model.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
