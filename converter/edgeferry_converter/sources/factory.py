"""``FILE.py:FACTORY``: Python code that the user named, and that makes a PyTorch module when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.python_file import imported
from edgeferry_converter.sources.tensors import check_shape_names
from edgeferry_converter.sources.torch_lowering import TorchSource, dtype_name
from edgeferry_converter.sources.torch_shapes import call_by_name, filled, observed_outputs, shaped
from edgeferry_converter.sources.torch_weights import fit, read_weights
from edgeferry_runtime.errors import ArtifactError, UnknownNameError, UsageError
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
    weights = read_weights(spec.weights, spec.weights_key) if spec.weights is not None else None
    if weights is not None:
        fit(weights.path, module, weights.state)
    module.eval()
    examples = _examples(spec, module, given)
    kinds = inspect.signature(module.forward).parameters
    positional = [n for n in examples if kinds[n].kind is inspect.Parameter.POSITIONAL_ONLY]
    call = call_by_name(module, examples, positional)
    shapes = {name: spec.shapes.get(name, tuple(tensor.shape)) for name, tensor in examples.items()}
    inputs = tuple(TensorSpec(name, shapes[name], dtype_name(t.dtype)) for name, t in examples.items())
    source = TorchSource((spec.path, "factory"), call, inputs, observed_outputs(spec, call, inputs))
    source.notes = weights.notes if weights else ()
    return source


def _make(spec: SourceSpec) -> tuple[Any, Any]:
    """Return the module and its example inputs, None where the factory gives none."""
    import torch

    with foreign(spec, "the factory failed", "mend the factory", ArtifactError), imported(spec.path) as python:
        factory = getattr(python, str(spec.factory), None)
        if not callable(factory):
            raise UnknownNameError(spec.path, str(spec.factory), _factories(python))
        made = factory()
    module, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        reason = f"the factory returned {type(module).__name__}, not an nn.Module"
        raise ArtifactError(spec, reason, "return the module, or (module, example inputs)")
    return module, given


def _factories(python: ModuleType) -> list[str]:
    own = (n for n, v in vars(python).items() if callable(v) and getattr(v, "__module__", "") == python.__name__)
    return [name for name in own if not name.startswith("_")] or ["none: it defines no function or class"]


def _examples(spec: SourceSpec, module: Any, given: Any) -> dict[str, Any]:
    """Return one example tensor per input name, in the order of forward's parameters."""
    signature = inspect.signature(module.forward)
    plain = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    examples = _by_name(spec, signature, given) if given is not None else {}
    check_shape_names(spec.shapes, list(examples) or [p.name for p in plain])
    examples |= {name: _example(name, shape, examples.get(name)) for name, shape in spec.shapes.items()}
    if given is None:
        examples |= _hinted(spec, [p.name for p in plain if p.default is p.empty and p.name not in examples])
    return {p.name: examples[p.name] for p in plain if p.name in examples}


def _example(name: str, shape: tuple[int, ...], given: Any) -> Any:
    import torch

    return filled(shaped(name, shape), torch.float32 if given is None else given.dtype)


def _hinted(spec: SourceSpec, names: list[str]) -> dict[str, Any]:
    """Take the shapes that the user did not give from the data that the model will be fed."""
    import torch

    hints = {name: spec.hints.get(name) or (spec.hints.get("") if len(names) == 1 else None) for name in names}
    for name, hint in hints.items():
        if not hint:
            raise UsageError(spec, f"the shape of the input {name!r} is unknown", _shape_hint(name))
    return {name: filled(hint, torch.float32) for name, hint in hints.items() if hint}


def _shape_hint(name: str) -> str:
    return f"give --shape {name}=1,3,32,32 (its own numbers), or return (module, example inputs) from the factory"


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
