"""Example inputs of PyTorch modules, and what running on them tells about the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources import SourceSpec
from edgeferry_converter.sources.torch_lowering import Call, dtype_name, resize_batch
from edgeferry_runtime.errors import ConversionError, UsageError
from edgeferry_runtime.tensors import TensorSpec


def shaped(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of an example of a given shape, a dynamic batch being 1.

    Raises:
        UsageError: If another dimension than the batch is open.
    """
    if any(d == 0 or d < -1 for d in shape) or -1 in shape[1:]:
        raise UsageError("--shape", f"{name}={list(shape)} has a bad dimension", "only a batch may be -1, in front")
    return tuple(abs(d) for d in shape)


def filled(shape: Sequence[int], dtype: Any) -> Any:
    """Return repeatable values: halves for floats, which no layer finds degenerate, else zeros."""
    import torch

    return torch.full(shape, 0.5 if dtype.is_floating_point else 0, dtype=dtype)


def call_by_name(module: Any, examples: Mapping[str, Any], positional: Sequence[str]) -> Call:
    """Return the call of a module with its examples, those named in `positional` by their place."""
    from torch.utils import _pytree as pytree

    arguments = (tuple(examples[n] for n in positional), {n: t for n, t in examples.items() if n not in positional})
    leaves, structure = pytree.tree_flatten(arguments)
    return Call(module, tuple(leaves), structure)


def observed_outputs(spec: SourceSpec, call: Call, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Run on the examples; a dimension that grows with a dynamic batch is dynamic too."""
    batched = [t.shape[:1] == (-1,) for t in inputs]
    grown = tuple(resize_batch(e, 3) if b else e for e, b in zip(call.examples, batched, strict=True))
    with foreign(spec, "the module failed on inputs of these shapes", "check --shape against the module"):
        answers = call.answers(spec, call.examples)
        larger = call.answers(spec, grown) if any(batched) else answers
    return tuple(
        TensorSpec(name, _common(spec, tuple(t.shape), tuple(larger[name].shape)), dtype_name(t.dtype))
        for name, t in answers.items()
    )


def _common(spec: SourceSpec, shape: tuple[int, ...], larger: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != len(larger):
        reason = f"an output has shape {list(shape)} or {list(larger)}, by the size of the batch"
        raise ConversionError(spec, reason, "give the batch a size with --shape")
    return tuple(a if a == b else -1 for a, b in zip(shape, larger, strict=True))
