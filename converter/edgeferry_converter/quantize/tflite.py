"""Quantization of TFLite artifacts with ai-edge-quantizer.

``fp16`` stores weights as float16, ``dynamic`` as int8 per channel, ``int8`` quantizes activations to
[-128, 127] as well. The quantizer inserts tensors at the borders of a model and needs unique tensor names; both
are put right here, so that signature, names, order and shapes come out as they went in.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.tflite_ranges import is_constant, true_ranges
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.signature import pack
from edgeferry_runtime.errors import ConversionError

FLOAT32, FLOAT16, INT8 = 0, 1, 9
"""`TensorType` of the TFLite schema."""


def quantize_tflite(job: Job) -> dict[str, str]:
    """Quantize one float ``.tflite`` file; return the quantizer's version.

    Raises:
        ConversionError: If the file is quantized already, if nothing in it can be quantized, or if the quantizer
            refuses it.
        DataError: If a calibration sample does not fit.
    """
    require("TFLite quantization", "quantize", "ai_edge_quantizer")
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    with foreign(job.subject, "the quantizer could not read it"):
        content = bytes(job.source.read_bytes())
        model = flatbuffers.read_model_from_bytearray(content)
    _refuse_quantized(job, model)
    renamed = make_names_unique(model)
    if modernize(model) or renamed:
        content = pack(model)
    ranges = true_ranges(job.subject, content, job.samples) if job.samples is not None else None
    with foreign(job.subject, "the quantizer refused it", "use another --quantize, or --quantize none"):
        quantized = flatbuffers.read_model_from_bytearray(_run(content, job, ranges))
    original = flatbuffers.read_model_from_bytearray(content)
    if not any(_is_quantized(tensor) or tensor.type == FLOAT16 for tensor in _tensors(quantized)):
        raise ConversionError(job.subject, "has no operator that the quantizer supports", "use --quantize none")
    restore_borders(original, quantized)
    _check_borders(job, original, quantized)
    job.target.write_bytes(pack(quantized))
    return {"ai-edge-quantizer": version("ai-edge-quantizer")}


def _run(content: bytes, job: Job, ranges: dict[str, dict[str, Any]] | None) -> bytes:
    from ai_edge_quantizer import quantizer

    tool = quantizer.Quantizer(bytearray(content), _recipe(job.precision, job.io_dtype))
    result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _recipe(precision: str, io_dtype: str) -> list[dict[str, Any]]:
    """Say to the quantizer what we mean: for every operator it supports, and for the borders."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    if precision == "fp16":
        manager.add_weight_only_config(".*", every, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision == "dynamic":
        manager.add_dynamic_config(".*", every, 8)
    else:
        manager.add_static_config(".*", every, activation_num_bits=8, weight_num_bits=8)
        if io_dtype == "float32":
            for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                manager.add_quantization_config(".*", border, algorithm_key=AlgorithmName.NO_QUANTIZE)
    recipe: list[dict[str, Any]] = manager.get_quantization_recipe()
    return recipe


def _tensors(model: Any) -> Iterator[Any]:
    return (tensor for subgraph in model.subgraphs for tensor in subgraph.tensors)


def _is_quantized(tensor: Any) -> bool:
    return (
        tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale) > 0
    )


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
    main_before, main_after = _borders_of_first(original), _borders_of_first(quantized)
    for before, after in zip(main_before, main_after, strict=True):
        wanted = INT8 if job.io_dtype == "int8" and before.type == FLOAT32 else before.type
        if after.type != wanted:
            kept = f"the quantizer left {_text(before.name)!r} in another dtype than {job.io_dtype}"
            other = "float32" if job.io_dtype == "int8" else "int8"
            raise ConversionError(job.subject, kept, f"use --io-dtype {other}, or --quantize dynamic")


def _borders_of_first(model: Any) -> list[Any]:
    first = model.subgraphs[0]
    return [first.tensors[i] for i in (*first.inputs, *first.outputs)]
