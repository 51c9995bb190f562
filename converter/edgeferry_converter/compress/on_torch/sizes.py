"""The integers in which modules keep their sizes, and how they follow the shapes of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeferry_runtime.tensors import Array

HEADS = ("num_heads", "n_heads", "heads", "nhead", "n_head", "num_attention_heads", "nheads")
"""What attention modules call the number of their heads."""

Numbers = dict[str, dict[str, Any]]


def sizes_of(module: Any, state: Mapping[str, Array]) -> Numbers:
    """Return by layer the attributes that a change of its parameters changes; only layers that change.

    Args:
        module: As large as it is.
        state: By name of ``state_dict``, values of the new shapes.
    """
    found: Numbers = {}
    for name, part in module.named_modules(remove_duplicate=False):
        shapes = _shapes(name, part, state)
        if any(tuple(getattr(part, own).shape) != shape for own, shape in shapes.items()):
            found[name] = _numbers(part, shapes)
    return found


def _shapes(name: str, part: Any, state: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    prefix = f"{name}." if name else ""
    return {own: np.shape(state[prefix + own]) for own in own_values(part) if prefix + own in state}


def own_values(part: Any) -> list[str]:
    """Return the names of the parameters and buffers that a module has itself."""
    return [name for kind in (part._parameters, part._buffers) for name, value in kind.items() if value is not None]


def _numbers(part: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    from torch import nn

    main = shapes.get("weight") or shapes.get("running_mean") or ()
    if isinstance(part, nn.modules.conv._ConvNd):
        return _convolution(part, main)
    if isinstance(part, nn.Linear):
        return {"out_features": main[0], "in_features": main[1]}
    if isinstance(part, nn.Embedding):
        return {"num_embeddings": main[0], "embedding_dim": main[1]}
    if isinstance(part, nn.modules.batchnorm._NormBase):
        return {"num_features": main[0]}
    if isinstance(part, nn.LayerNorm) or type(part).__name__ == "RMSNorm":
        return {"normalized_shape": main}
    single = {nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}
    known = {key: main[0] for kind, key in single.items() if isinstance(part, kind)}
    return known or _alike(part, shapes)


def _alike(part: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the integers of a module of another kind that were as large as an axis that changes."""
    pairs = _pairs(part, shapes)
    changes = {a: b for a, b in pairs if a != b and (a, a) not in pairs}
    return {key: changes[value] for key, value in _integers(part) if value in changes}


def _pairs(part: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    """Return the size of every axis before and after."""
    both = ((getattr(part, own).shape, shape) for own, shape in shapes.items())
    return [pair for before, after in both for pair in zip(before, after, strict=True)]


def _convolution(part: Any, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Depthwise kernels have as many groups as inputs; other groups keep their number."""
    first, second = kernel[:2]
    if is_depthwise(part.weight.shape, part.groups, part.transposed):
        groups = first // (part.weight.shape[0] // part.groups)
        inputs, outputs = groups, groups * second if part.transposed else first
    else:
        groups = part.groups
        inputs, outputs = (first, second * groups) if part.transposed else (second * groups, first)
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


def is_depthwise(kernel: Sequence[int], groups: int, transposed: bool = False) -> bool:
    """Tell whether each filter of a convolution takes one channel.

    Args:
        kernel: Its shape: [out, in / groups, ...], or transposed [in, out / groups, ...].
        groups: How many.
        transposed: Which of the two it is; transposed ones with several outputs of a channel are none here.
    """
    return groups > 1 and kernel[1] == 1 and (not transposed or kernel[0] == groups)


def heads_of(module: Any, sizes: Numbers, state: Mapping[str, Array]) -> tuple[Numbers, Numbers]:
    """Return the numbers of heads, and other integers that may have to follow, of the modules around layers.

    A module's number of heads falls like the outputs of a layer inside of it, if that leaves whole heads.

    Args:
        module: As large as it is.
        sizes: What `sizes_of` returned.
        state: What it was given.
    """
    heads: Numbers = {}
    others: Numbers = {}
    parts = dict(module.named_modules(remove_duplicate=False))
    for layer, numbers in sizes.items():
        part = parts[layer]
        others_of_it = [("", a, b) for a, b in _pairs(part, _shapes(layer, part, state)) if a != b]
        changes = list(_changes(part, numbers)) if _is_known(part) else others_of_it
        for name in _around(layer):
            for key, value in _integers(parts[name]):
                if key in HEADS:
                    heads.setdefault(name, {}).update(_fewer(key, value, changes))
                for _, before, after in changes:
                    if value == before and key not in HEADS:
                        others.setdefault(name, {})[key] = after
    return heads, others


def _is_known(part: Any) -> bool:
    return type(part).__module__.startswith("torch.nn.")


def _changes(part: Any, numbers: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    for key, after in numbers.items():
        before = getattr(part, key)
        if isinstance(before, int) and before != after:
            yield key, before, after


def _around(layer: str) -> Iterator[str]:
    """Yield the names of the modules that a layer is inside of, the nearest first."""
    while layer:
        layer = layer.rpartition(".")[0]
        yield layer


def _integers(part: Any) -> list[tuple[str, int]]:
    return [(key, value) for key, value in vars(part).items() if type(value) is int and not key.startswith("_")]


def _fewer(key: str, heads: int, changes: list[tuple[str, int, int]]) -> dict[str, int]:
    for name, before, after in changes:
        if not name.startswith("in_") and before % heads == 0 and after % (before // heads) == 0:
            return {key: after * heads // before}
    return {}


def put(module: Any, state: Mapping[str, Array], numbers: Numbers | Mapping[str, Mapping[str, Any]]) -> None:
    """Give a module values and sizes; what it has under several names stays one.

    Args:
        module: Changed in place.
        state: By name of ``state_dict``; dtype, device and whether it is trained stay those of the module.
        numbers: By module, attributes.
    """
    import torch

    made: dict[int, Any] = {}
    parts = dict(module.named_modules(remove_duplicate=False))
    for name, values in state.items():
        owner, _, own = name.rpartition(".")
        before = getattr(parts[owner], own)
        if id(before) not in made:
            tensor = torch.from_numpy(np.array(values)).to(before.device, before.dtype)
            kept = isinstance(before, torch.nn.Parameter)
            made[id(before)] = (torch.nn.Parameter(tensor, before.requires_grad) if kept else tensor, before)
        setattr(parts[owner], own, made[id(before)][0])
    for name, attributes in numbers.items():
        for key, value in attributes.items():
            setattr(parts[name], key, value)
