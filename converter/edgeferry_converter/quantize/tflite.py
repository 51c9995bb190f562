"""Quantization of TFLite artifacts with ai-edge-quantizer.

``fp16`` stores weights as float16, ``dynamic`` and ``weight-only`` as int8 per channel, ``int8`` quantizes
activations to [-128, 127] as well, and ``int16x8`` symmetrically to 16 bits. The quantizer inserts tensors at the
borders of a model and needs unique tensor names; both are put right here, so that signature, names, order and
shapes come out as they went in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from edgeferry_converter.quantize import Job, Outcome, tflite_recipe
from edgeferry_converter.quantize.calibration.observer import Statistics
from edgeferry_converter.quantize.rounding import GPTQ, NEAREST
from edgeferry_converter.quantize.support import INT8_BELOW
from edgeferry_converter.quantize.tflite_blocks import store_in_blocks
from edgeferry_converter.quantize.tflite_dead import revive_biases
from edgeferry_converter.quantize.tflite_ranges import (
    Wanted,
    calibrated_ranges,
    is_constant,
    observe,
    observe_signatures,
    seen,
)
from edgeferry_converter.quantize.tflite_rounding import round_again
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.signature import pack
from edgeferry_runtime.errors import ConversionError

FLOAT32, FLOAT16, UINT8, INT8, INT4 = 0, 1, 3, 9, 17
"""`TensorType` of the TFLite schema."""

STORED = {FLOAT32: "float32", FLOAT16: "float16", INT8: "int8", INT4: "int4"}
WITH_WEIGHTS = (3, 4, 7, 9, 67, 126, 16, 24, 35, 44, 46)
"""Convolutions, EMBEDDING_LOOKUP, FULLY_CONNECTED, TRANSPOSE_CONV, BATCH_MATMUL, and the kinds of LSTM and RNN."""
DEQUANTIZE, RESHAPE = 6, 22


def quantize_tflite(job: Job) -> Outcome:
    """Quantize one float ``.tflite`` file; its recipe is written beside the target where that says it all.

    Raises:
        UsageError: If an override matches no layer, or one that cannot have its precision.
        ConversionError: If the file is quantized already, if nothing in it can be quantized, or if the quantizer
            refuses it.
        DataError: If a calibration sample does not fit.
    """
    content = _read(job)
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    model = flatbuffers.read_model_from_bytearray(content)
    entries = tflite_recipe.build(job, model)
    blocks = {name for layer in tflite_recipe.stored_in_blocks(job, model) for name in layer.names}
    static = tflite_recipe.needs_ranges(entries)
    statistics = seen(job, content) if static or job.rounding == GPTQ else Statistics()
    ranges = calibrated_ranges(job, statistics) if static else None
    with foreign(job.subject, "the quantizer refused it", "use another --quantize, or --quantize none"):
        quantized = flatbuffers.read_model_from_bytearray(_run(content, entries, ranges))
    original = flatbuffers.read_model_from_bytearray(content)
    revive_biases(original, quantized)
    store_in_blocks(quantized, blocks, job.block_size)
    _refuse_untouched(job, quantized)
    rounding = _round(job, original, quantized, statistics) if job.rounding == GPTQ else {}
    restore_borders(original, quantized)
    _check_borders(job, original, quantized)
    job.target.write_bytes(pack(quantized))
    if not blocks and job.rounding == NEAREST:
        tflite_recipe.write(entries, job.target.parent)
    return Outcome({"ai-edge-quantizer": version("ai-edge-quantizer")}, stored_layers(quantized), rounding)


def observe_tflite(job: Job, *, sums: bool = False) -> Statistics:
    """Run one float ``.tflite`` file over all samples and keep what every calibration method needs.

    Args:
        job: What is run.
        sums: Keep what trained ranges are matched by instead, of the primary signature.

    Raises:
        ConversionError: If the file is quantized already, or the interpreter refuses it.
        DataError: If a sample does not fit.
    """
    if sums:
        return observe(job.subject, _read(job), job.samples or (), Wanted(sums=True))
    return observe_signatures(job, _read(job), histograms=True)


def _read(job: Job) -> bytes:
    """Read a float file, and give it the form that the quantizer takes."""
    require("TFLite quantization", "quantize", "ai_edge_quantizer")
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    with foreign(job.subject, "the quantizer could not read it"):
        content = bytes(job.source.read_bytes())
        model = flatbuffers.read_model_from_bytearray(content)
    _refuse_quantized(job, model)
    renamed = make_names_unique(model)
    if modernize(model) or renamed:
        content = pack(model)
    return content


def _run(content: bytes, entries: tflite_recipe.Entries, ranges: dict[str, dict[str, Any]] | None) -> bytes:
    from ai_edge_quantizer import quantizer

    tool = quantizer.Quantizer(bytearray(content), entries)
    result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _refuse_untouched(job: Job, quantized: Any) -> None:
    if not any(_is_quantized(tensor) or tensor.type == FLOAT16 for tensor in _tensors(quantized)):
        raise ConversionError(job.subject, "has no operator that the quantizer supports", "use --quantize none")
    below = INT8_BELOW.get(job.precision)
    if below and job.aeq_recipe is None and not any(tensor.type == INT4 for tensor in _tensors(quantized)):
        reason = "has no fully connected layer, and nothing else becomes int4 by itself"
        raise ConversionError(job.subject, reason, f"use --quantize {below}, or override an operator, such as CONV_2D")


def _round(job: Job, original: Any, quantized: Any, statistics: Statistics) -> dict[str, int]:
    found = round_again(original, quantized, statistics.inputs)
    if GPTQ not in found:
        reason = "has no convolution and no fully connected layer whose integer weights are its own"
        raise ConversionError(job.subject, reason, "leave --rounding out")
    return found


def stored_layers(model: Any) -> dict[str, int]:
    """Count the layers with weights by what they store them as."""
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        codes = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
        origin: dict[int, int] = {}
        for operator, code in zip(graph.operators, codes, strict=True):
            if code in (DEQUANTIZE, RESHAPE):
                origin[operator.outputs[0]] = origin.get(operator.inputs[0], operator.inputs[0])
        for operator, code in zip(graph.operators, codes, strict=True):
            stored = [graph.tensors[origin.get(i, i)] for i in operator.inputs[:3] if i != -1]
            kept = [t for t in stored if is_constant(model, t) and t.type in STORED and len(t.shape) > 1]
            if code in WITH_WEIGHTS and kept:
                found[STORED[kept[-1].type]] += 1
    return dict(sorted(found.items()))


def _tensors(model: Any) -> Iterator[Any]:
    return (tensor for subgraph in model.subgraphs for tensor in subgraph.tensors)


def _is_quantized(tensor: Any) -> bool:
    found = tensor.quantization
    return found is not None and ((found.scale is not None and len(found.scale) > 0) or found.details is not None)


def _refuse_quantized(job: Job, model: Any) -> None:
    for tensor in _tensors(model):
        half = tensor.type == FLOAT16 and is_constant(model, tensor)
        if half or _is_quantized(tensor):
            what = "float16 weights" if half else "quantized tensors"
            raise ConversionError(
                job.subject,
                f"is quantized already: it has {what}, such as {_text(tensor.name)!r}",
                "give the float model, or use --quantize none to carry this one as it is",
            )


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _borders(model: Any) -> list[Any]:
    """Return the tensors at the borders of every subgraph: inputs, then outputs."""
    return [s.tensors[i] for s in model.subgraphs for i in (*s.inputs, *s.outputs)]


def modernize(model: Any) -> bool:
    """Put an old file into the form that the quantizer reads; return whether anything changed.

    It fails where there is no list of signatures, and takes every operator of files from before 2020 for an ADD:
    they tell the kind in a field that is deprecated since.
    """
    old = [code for code in model.operatorCodes if code.builtinCode < code.deprecatedBuiltinCode]
    for code in old:
        code.builtinCode = code.deprecatedBuiltinCode
    unsigned = model.signatureDefs is None
    model.signatureDefs = model.signatureDefs or []
    return unsigned or bool(old)


def make_names_unique(model: Any) -> bool:
    """Rename tensors until no two share a name and none lacks one; those at the borders keep theirs if they can.

    Returns:
        Whether anything was renamed.
    """
    taken: set[str] = set()
    done: set[int] = set()
    renamed = False
    for tensor in (*_borders(model), *_tensors(model)):
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        name = _free(_text(tensor.name), taken)
        renamed |= name != _text(tensor.name)
        tensor.name = name.encode()
        taken.add(name)
    return renamed


def _free(name: str, taken: set[str]) -> str:
    candidate, count = name or "tensor", 0
    while candidate in taken:
        count += 1
        candidate = f"{name or 'tensor'}_{count}"
    return candidate


def restore_borders(original: Any, quantized: Any) -> None:
    """Give inputs, outputs and signatures of the quantized model the names that they had, by position."""
    for before, after in zip(original.subgraphs, quantized.subgraphs, strict=True):
        wanted = {
            new: _text(before.tensors[old].name)
            for old, new in zip((*before.outputs, *before.inputs), (*after.outputs, *after.inputs), strict=True)
        }
        taken = set(wanted.values())
        for index, tensor in enumerate(after.tensors):
            name = wanted.get(index) or _free(_text(tensor.name), taken)
            tensor.name = name.encode()
            taken.add(name)
    for before, after in zip(original.signatureDefs or [], quantized.signatureDefs or [], strict=True):
        old, new = original.subgraphs[before.subgraphIndex], quantized.subgraphs[after.subgraphIndex]
        _restore_map(before.inputs, after.inputs, dict(zip(old.inputs, new.inputs, strict=True)))
        _restore_map(before.outputs, after.outputs, dict(zip(old.outputs, new.outputs, strict=True)))


def _restore_map(before: list[Any], after: list[Any], moved: dict[int, int]) -> None:
    for old, new in zip(before, after, strict=True):
        new.name, new.tensorIndex = old.name, moved[old.tensorIndex]


def _check_borders(job: Job, original: Any, quantized: Any) -> None:
    """Prove that shapes are the same, and that dtypes are what was asked for."""
    for before, after in zip(_borders(original), _borders(quantized), strict=True):
        name = _text(before.name)
        if list(before.shape) != list(after.shape):
            reason = f"quantization changed the shape of {name!r} from {list(before.shape)} to {list(after.shape)}"
            raise ConversionError(job.subject, reason, "use --quantize dynamic or none")
    if job.aeq_recipe is not None:
        return
    for before, after in zip(_entered_borders(original), _entered_borders(quantized), strict=True):
        integer = {"int8": INT8, "uint8": UINT8}.get(job.io_dtype, before.type)
        if after.type != (integer if before.type == FLOAT32 else before.type):
            kept = f"the quantizer left {_text(before.name)!r} in another dtype than {job.io_dtype}"
            other = "int8" if job.io_dtype == "float32" else "float32"
            raise ConversionError(job.subject, kept, f"use --io-dtype {other}, or --quantize dynamic")


def _entered_borders(model: Any) -> list[Any]:
    """Return the tensors at the borders of the subgraphs that callers enter: the first, and those of signatures."""
    entered = sorted({0, *(signature.subgraphIndex for signature in model.signatureDefs or ())})
    return [s.tensors[i] for s in (model.subgraphs[n] for n in entered) for i in (*s.inputs, *s.outputs)]
