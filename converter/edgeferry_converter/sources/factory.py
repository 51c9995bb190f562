"""``FILE.py:FACTORY``: Python code that the user named, and that makes a PyTorch module when it is called."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.tensors import check_shape_names
from edgeferry_converter.sources.torch_lowering import Call, TorchSource, dtype_name, resize_batch
from edgeferry_converter.sources.torch_weights import fit, read_state
from edgeferry_runtime.errors import ArtifactError, ConversionError, UnknownNameError, UsageError
from edgeferry_runtime.tensors import TensorSpec


def open_source(spec: SourceSpec) -> Source:
    """Call the factory, load the weights, and learn inputs and outputs from example inputs or `spec.shapes`.

    The factory returns an ``nn.Module``, or a pair of it and its example inputs: a tensor, a tuple of
    positional ones, or a dict by parameter name. Inputs bear the names of forward's parameters. Without
    example inputs they are float32 of the given shapes. A first dimension of -1 is a dynamic batch.

    Raises:
        UnknownNameError: If the file has no such factory, or a shape names no parameter.
        ArtifactError: If the factory fails, returns something else, or the weights do not fit.
        UsageError: If the shape of an input is unknown.
    """
    require(spec, "torch", "torch")
    module, given = _make(spec)
    if spec.weights is not None:
        fit(spec.weights, module, read_state(spec.weights))
    module.eval()
    examples = _examples(spec, module, given)
    call = _call(module, examples)
    shapes = {name: spec.shapes.get(name, tuple(tensor.shape)) for name, tensor in examples.items()}
    inputs = tuple(TensorSpec(name, shapes[name], dtype_name(t.dtype)) for name, t in examples.items())
    return TorchSource((spec.path, "factory"), call, inputs, _outputs(spec, call, inputs))


def _make(spec: SourceSpec) -> tuple[Any, Any]:
    """Return the module and its example inputs, None where the factory gives none."""
    import torch

    with foreign(spec, "the factory failed", "mend the factory", ArtifactError), _imported(spec.path) as python:
        factory = getattr(python, str(spec.factory), None)
        if not callable(factory):
            raise UnknownNameError(spec.path, str(spec.factory), _factories(python))
        made = factory()
    module, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        reason = f"the factory returned {type(module).__name__}, not an nn.Module"
        raise ArtifactError(spec, reason, "return the module, or (module, example inputs)")
    return module, given


@contextlib.contextmanager
def _imported(path: Path) -> Iterator[ModuleType]:
    """Import a file under a private name, its folder importable meanwhile, writing no bytecode beside it."""
    name = f"_edgeferry_factory_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    plan = importlib.util.spec_from_file_location(name, path)
    assert plan is not None and plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    folder, bytecode = str(path.resolve().parent), sys.dont_write_bytecode
    sys.modules[name], sys.dont_write_bytecode = module, True
    sys.path.insert(0, folder)
    try:
        plan.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = bytecode


def _factories(python: ModuleType) -> list[str]:
    own = (n for n, v in vars(python).items() if callable(v) and getattr(v, "__module__", "") == python.__name__)
    return [name for name in own if not name.startswith("_")] or ["none: it defines no function or class"]


def _examples(spec: SourceSpec, module: Any, given: Any) -> dict[str, Any]:
    """Return one example tensor per input name, in the order of forward's parameters."""
    signature = inspect.signature(module.forward)
    plain = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    examples = _by_name(spec, signature, given) if given is not None else {}
    check_shape_names(spec.shapes, list(examples) or [p.name for p in plain])
    examples |= {name: _shaped(name, shape, examples.get(name)) for name, shape in spec.shapes.items()}
    if given is None:
        examples |= _hinted(spec, [p.name for p in plain if p.default is p.empty and p.name not in examples])
    return {p.name: examples[p.name] for p in plain if p.name in examples}


def _shaped(name: str, shape: tuple[int, ...], example: Any) -> Any:
    import torch

    if any(d == 0 or d < -1 for d in shape) or -1 in shape[1:]:
        raise UsageError("--shape", f"{name}={list(shape)} has a bad dimension", "only a batch may be -1, in front")
    return _filled([abs(d) for d in shape], torch.float32 if example is None else example.dtype)


def _hinted(spec: SourceSpec, names: list[str]) -> dict[str, Any]:
    """Take the shapes that the user did not give from the data that the model will be fed."""
    import torch

    hints = {name: spec.hints.get(name) or (spec.hints.get("") if len(names) == 1 else None) for name in names}
    for name, hint in hints.items():
        if not hint:
            raise UsageError(spec, f"the shape of the input {name!r} is unknown", _shape_hint(name))
    return {name: _filled(hint, torch.float32) for name, hint in hints.items() if hint}


def _shape_hint(name: str) -> str:
    return f"give --shape {name}=1,3,32,32 (its own numbers), or return (module, example inputs) from the factory"


def _filled(shape: Sequence[int], dtype: Any) -> Any:
    """Return repeatable values: halves for floats, which no layer finds degenerate, else zeros."""
    import torch

    return torch.full(shape, 0.5 if dtype.is_floating_point else 0, dtype=dtype)


def _by_name(spec: SourceSpec, signature: inspect.Signature, given: Any) -> dict[str, Any]:
    import torch

    with foreign(spec, "forward does not take the example inputs", "mend the factory", ArtifactError):
        args = (given,) if isinstance(given, torch.Tensor) else given
        bound = signature.bind(**args) if isinstance(args, Mapping) else signature.bind(*args)
    for name, value in bound.arguments.items():
        if not isinstance(value, torch.Tensor):
            reason = f"the example input {name!r} is {type(value).__name__}, not a tensor"
            raise ArtifactError(spec, reason, "let forward take tensors")
    return dict(bound.arguments)


def _call(module: Any, examples: Mapping[str, Any]) -> Call:
    from torch.utils import _pytree as pytree

    kinds = inspect.signature(module.forward).parameters
    positional = [n for n in examples if kinds[n].kind is inspect.Parameter.POSITIONAL_ONLY]
    arguments = (tuple(examples[n] for n in positional), {n: t for n, t in examples.items() if n not in positional})
    leaves, structure = pytree.tree_flatten(arguments)
    return Call(module, tuple(leaves), structure)


def _outputs(spec: SourceSpec, call: Call, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
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
