"""What is asked for, as a recipe of ai-edge-quantizer: built from ours, read from a JSON file, written beside a model.

A recipe is a list of entries. Each has a regular expression that is searched in the names of an operator's outputs
(joined and ended by semicolons), a kind of operator, an algorithm and its parameters; the last match holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeferry_converter.overrides import Layer, Override, resolve
from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.support import INT8_BELOW
from edgeferry_runtime.errors import MissingFileError, UsageError
from edgeferry_runtime.numerics import TOLERANCES

FILE = "aeq_recipe.json"
"""The recipe's name beside an artifact and in a bundle."""

EVERY = ".*"
Entries = list[dict[str, Any]]


def read(path: Path) -> Entries:
    """Read a recipe file of ai-edge-quantizer.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If it is none.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such recipe", "check the path")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(path, f"is no JSON ({error})", "give a recipe of ai-edge-quantizer, or one in TOML") from error
    needed = ("regex", "operation", "algorithm_key")
    listed = entries if isinstance(entries, list) and entries else [None]
    if not all(isinstance(e, dict) and all(isinstance(e.get(key), str) for key in needed) for e in listed):
        reason = f"is no recipe of ai-edge-quantizer: a list whose entries have {', '.join(needed)}"
        raise UsageError(path, reason, "save one with its RecipeManager, or write a recipe in TOML")
    for entry in entries:
        _check_entry(path, entry)
    return list(entries)


def _check_entry(path: Path, entry: dict[str, Any]) -> None:
    try:
        re.compile(entry["regex"])
        precision_of(entry)
    except (re.error, TypeError, AttributeError, KeyError) as error:
        reason = f"has an entry that cannot be read ({type(error).__name__}: {error})"
        raise UsageError(path, reason, "see the recipes of ai-edge-quantizer") from error


def write(entries: Entries, folder: Path) -> None:
    """Write a recipe into a folder, the same bytes for the same entries."""
    (folder / FILE).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def precision(entries: Entries) -> str:
    """Return the coarsest precision in a recipe: the one whose tolerance holds for the whole model."""
    order = list(TOLERANCES)
    return max((precision_of(entry) for entry in entries), key=order.index)


def precision_of(entry: dict[str, Any]) -> str:
    """Return what our precisions call an entry; weights of fewer than 8 bits count as int4."""
    if entry["algorithm_key"] == "no_quantize":
        return "none"
    config = entry["op_config"]
    weights = (config.get("weight_tensor_config") or {}).get("num_bits", 8)
    activations = (config.get("activation_tensor_config") or {}).get("num_bits")
    if entry["algorithm_key"] == "float_casting":
        return "fp16"
    if config.get("explicit_dequantize"):
        return "weight-only" if weights >= 8 else "weight-only-int4"
    if weights < 8:
        return "dynamic-int4"
    if activations is None:
        return "dynamic"
    return "int16x8" if activations == 16 else "int8"


def needs_ranges(entries: Entries) -> bool:
    """Tell whether calibration samples are needed."""
    static = (entry.get("op_config", {}).get("activation_tensor_config") for entry in entries)
    return any(static) or any(entry["algorithm_key"] == "GPTQ" for entry in entries)


def build(job: Job, model: Any) -> Entries:
    """Return the recipe of a job.

    Args:
        job: What is asked for; its own recipe of ai-edge-quantizer, where it has one, is taken as it is.
        model: The float model as the object API has it, whose tensor names are unique.

    Raises:
        UsageError: If an override matches no layer, or no layer that could have its precision.
    """
    if job.aeq_recipe is not None:
        return read(job.aeq_recipe)
    from ai_edge_quantizer import recipe_manager

    manager = recipe_manager.RecipeManager()
    _add_base(manager, job)
    operators = list(_operators(model))
    for layer, operation, depth in operators:
        if _has_blocks(job) and operation in _matrices() and depth % job.block_size:
            add(manager, job.precision, _exactly(layer), operation)
    for layer, operation in stored_in_blocks(job, model).items():
        add(manager, "none", _exactly(layer), operation)
    if job.precision in ("int8", "int16x8"):
        _keep_loops_float(manager, model)
    _add_overrides(manager, job.overrides, [(layer, operation) for layer, operation, _ in operators])
    entries: Entries = manager.get_quantization_recipe()
    return entries


def stored_in_blocks(job: Job, model: Any) -> dict[Layer, Any]:
    """Return the layers, with their kind, that get blocks of int4 and float computation, which the quantizer has not.

    It leaves them float.
    """
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind

    if not job.block_size or job.precision != "weight-only-int4":
        return {}
    operators = list(_operators(model))
    own = resolve(job.overrides, [layer for layer, _, _ in operators])
    return {
        layer: kind
        for i, (layer, kind, depth) in enumerate(operators)
        if kind == Kind.FULLY_CONNECTED and depth and depth % job.block_size == 0 and i not in own
    }


def _has_blocks(job: Job) -> bool:
    """Tell whether the quantizer itself makes blocks."""
    return bool(job.block_size) and job.precision == "dynamic-int4"


def _add_base(manager: Any, job: Job) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind

    add(manager, INT8_BELOW.get(job.precision, job.precision), EVERY, Kind.ALL_SUPPORTED)
    if job.precision in INT8_BELOW:
        for kind in _matrices():
            add(manager, job.precision, EVERY, kind, job.block_size if _has_blocks(job) else 0)
    if job.precision in ("int8", "int16x8") and job.io_dtype != "int8":
        for border in (Kind.INPUT, Kind.OUTPUT):
            add(manager, "uint8" if job.io_dtype == "uint8" else "none", EVERY, border)


def _keep_loops_float(manager: Any, model: Any) -> None:
    """Keep what WHILE and IF run in float, matrices with int8 weights: the values that they hand around are float."""
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind

    entered = {0, *(signature.subgraphIndex for signature in model.signatureDefs or ())}
    for layer, operation, _ in _operators(model, [i for i in range(len(model.subgraphs)) if i not in entered]):
        add(manager, "none", _exactly(layer), Kind.ALL_SUPPORTED)
        if operation in _matrices():
            add(manager, "dynamic", _exactly(layer), operation)


def _matrices() -> tuple[Any, ...]:
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind

    return (Kind.FULLY_CONNECTED, Kind.EMBEDDING_LOOKUP)


def add(manager: Any, precision: str, regex: str, operation: Any, block_size: int = 0) -> None:
    """Add what one of our precisions means.

    Raises:
        ValueError: If that kind of operator does not have it.
    """
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    grain = qtyping.QuantGranularity[f"BLOCKWISE_{block_size}" if block_size else "CHANNELWISE"]
    bits = 4 if precision.endswith("int4") else 8
    if precision == "none":
        manager.add_quantization_config(regex, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    elif precision == "uint8":
        manager.add_quantization_config(regex, operation, _unsigned())
    elif precision == "fp16":
        manager.add_weight_only_config(regex, operation, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision.startswith("weight-only"):
        manager.add_weight_only_config(regex, operation, bits, grain)
    elif precision.startswith("dynamic"):
        manager.add_dynamic_config(regex, operation, bits, grain)
    else:
        manager.add_static_config(regex, operation, 16 if precision == "int16x8" else 8, 8)


def _unsigned() -> Any:
    """Return what a border has whose zero point is shifted by 128: one QUANTIZE operator stands there."""
    from ai_edge_quantizer import qtyping

    tensor = qtyping.TensorQuantizationConfig
    return qtyping.OpQuantizationConfig(
        activation_tensor_config=tensor(8, symmetric=False, dtype=qtyping.TensorDataType.UINT),
        weight_tensor_config=tensor(8, granularity=qtyping.QuantGranularity.CHANNELWISE),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )


def _operators(model: Any, subgraphs: Sequence[int] | None = None) -> Iterator[tuple[Layer, Any, int]]:
    """Yield each operator as a layer, what ai-edge-quantizer calls its kind, and the depth of its weights.

    Args:
        model: The model as the object API has it.
        subgraphs: The indices of those to look at; None looks at all.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    for graph in model.subgraphs if subgraphs is None else [model.subgraphs[i] for i in subgraphs]:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            names = [graph.tensors[i].name.decode() for i in operator.outputs if i != -1]
            shapes = [graph.tensors[i].shape for i in operator.inputs[1:2] if i != -1]
            depth = int(shapes[0][-1]) if shapes and shapes[0] is not None and len(shapes[0]) else 0
            yield Layer((";".join(names), *names), kinds.get(code, "CUSTOM")), TFL_OP_CODE_TO_NAME.get(code), depth


def _exactly(layer: Layer) -> str:
    return f"^{re.escape(layer.names[0])};$"


def _add_overrides(manager: Any, overrides: Sequence[Override], operators: Sequence[tuple[Layer, Any]]) -> None:
    found = resolve(overrides, [layer for layer, _ in operators])
    taken: set[Override] = set()
    for i, override in found.items():
        layer, operation = operators[i]
        if _add_one(manager, override, layer, operation):
            taken.add(override)
    for override in found.values():
        if override not in taken:
            kinds = sorted({operators[i][0].operator for i, other in found.items() if other == override})
            reason = f"{', '.join(kinds)} cannot be {override.precision} in TFLite"
            raise UsageError(override, reason, "use none, or another precision")


def _add_one(manager: Any, override: Override, layer: Layer, operation: Any) -> bool:
    if operation is None:
        return override.precision == "none"
    try:
        add(manager, override.precision, _exactly(layer), operation)
    except ValueError:
        return False
    return True
