"""Quantization of ONNX artifacts with onnxruntime.quantization.

``int8`` is QDQ with int8 (or uint8) activations and int8 weights, per channel, ``int16x8`` the same with 16-bit
activations; ``dynamic`` has int8 weights and quantizes activations when it runs; ``weight-only`` has int8 weights
and computes in float32, as ``fp16`` does with float16 weights. With overrides each node has a precision of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeferry_converter import onnx_file
from edgeferry_converter.quantize import Job, Outcome
from edgeferry_converter.quantize.calibration.methods import Range
from edgeferry_converter.quantize.calibration.observer import Statistics
from edgeferry_converter.quantize.onnx_borders import make_borders_integer
from edgeferry_converter.quantize.onnx_matrices import ACCURACY, multiply_in_int4, quantize_dynamic, split_gemms
from edgeferry_converter.quantize.onnx_plan import assign, of
from edgeferry_converter.quantize.onnx_prepare import graphs, prepare
from edgeferry_converter.quantize.onnx_static import calibrated_ranges, observe, quantize_qdq
from edgeferry_converter.quantize.onnx_weights import halve_weights, quantize_weights
from edgeferry_converter.quantize.support import INT8_BELOW, STATIC, needs_ranges
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.onnx_branches import advice
from edgeferry_runtime.engines.onnxruntime import import_engine
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.scratch import scratch

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
QUANTIZED_PREFIXES = ("QLinear", "QAttention", "QGemm", "ConvInteger", "MatMulInteger", "MatMulNBits")
STORED = {1: "float32", 2: "int8", 3: "int8", 10: "float16", 21: "int4", 22: "int4"}
"""What `TensorProto` calls the types of weights."""
WITH_WEIGHTS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"),
    *("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"),
)


def quantize_onnx(job: Job) -> Outcome:
    """Quantize one float ``.onnx`` file.

    Raises:
        UsageError: If an override matches no layer.
        ConversionError: If the file is quantized already, if nothing in it can be quantized, or if the quantizer
            refuses it.
        DataError: If a calibration sample does not fit.
    """
    model = _read(job)
    borders = _borders(model)
    with scratch() as folder:
        float_file, file = folder / "float.onnx", folder / "quantized.onnx"
        with foreign(job.subject, "it could not be prepared for quantization", "use --quantize none"):
            prepare(model, float_file)
        with foreign(job.subject, "the quantizer refused it", "use another --quantize, or --quantize none"):
            static = needs_ranges(job.precision, job.overrides)
            ranges = calibrated_ranges(job, float_file) if static else {}
            _run(job, onnx_file.read(float_file), file, ranges)
            quantized = onnx_file.read(file)
            _refuse_untouched(job, quantized)
            if job.io_dtype != "float32":
                make_borders_integer(quantized, ranges, unsigned=job.io_dtype == "uint8")
        _finish(job, quantized, borders)
        onnx_file.write(quantized, job.target)
    return Outcome({"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}, stored_layers(quantized))


def observe_onnx(job: Job, *, sums: bool = False) -> Statistics:
    """Run one float ``.onnx`` file over all samples and keep what every calibration method needs.

    Args:
        job: What is run.
        sums: Keep what trained ranges are matched by instead.

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
            return observe(float_file, job.samples or (), histograms=not sums, sums=sums)


def _read(job: Job) -> Any:
    require("ONNX quantization", "quantize", "onnx")
    import_engine("ONNX quantization")
    with foreign(job.subject, "onnx could not read it"):
        model = onnx_file.read(job.source)
    _refuse_quantized(job, model)
    return model


def _run(job: Job, model: Any, file: Path, ranges: Mapping[str, Range]) -> None:
    """Give each node its precision, one pass for each kind of precision, and write the result.

    Weights come first: what a static pass stores narrow, all nodes that share it would read.
    """
    plan = assign(job, model)
    bits = dict.fromkeys(of(plan, "weight-only"), 8)
    for precision in ACCURACY:
        rest = multiply_in_int4(model, split_gemms(model, of(plan, precision)), precision, job.block_size)
        bits |= dict.fromkeys(rest, 4)
    quantize_weights(model, bits)
    halve_weights(model, of(plan, "fp16"))
    integers = split_gemms(model, of(plan, "dynamic"))
    if integers:
        model = quantize_dynamic(model, integers)
    onnx_file.write(model, file)
    if of(plan, *STATIC):
        options = {"unsigned": job.activations == "uint8", "mixed": len(set(plan.values())) > 1}
        quantize_qdq(file, ranges, of(plan, "int8"), of(plan, "int16x8"), **options)


def stored_layers(model: Any) -> dict[str, int]:
    """Count the layers with weights by what they store them as."""
    found: Counter[str] = Counter()
    for graph in graphs(model.graph):
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
        for node in graph.node:
            if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in stored:
                stored[node.output[0]] = stored[node.input[0]]
        for node in graph.node:
            if node.op_type == "MatMulNBits":
                found["int4"] += 1
            elif node.op_type in WITH_WEIGHTS and node.input[1] in stored:
                found[STORED.get(stored[node.input[1]], "other")] += 1
    return dict(sorted(found.items()))


def _refuse_untouched(job: Job, model: Any) -> None:
    quantized = any(_is_quantizing(node) for graph in graphs(model.graph) for node in graph.node)
    if not quantized and not _has_float16(model):
        inside = "".join(f"{words}; or " for words in advice(model))
        fix = f"{inside}use --quantize none"
        raise ConversionError(job.subject, "has no operator that the quantizer supports", fix)
    below = INT8_BELOW.get(job.precision)
    if below and "int4" not in stored_layers(model):
        reason = "has no matrix multiplication, and nothing else becomes int4 by itself"
        raise ConversionError(job.subject, reason, f"use --quantize {below}")


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


def _drop_unused_domains(model: Any) -> None:
    """Leave out the operator sets that ONNX Runtime's optimizer declares and nothing uses."""
    used = {node.domain for graph in graphs(model.graph) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [o for o in model.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
