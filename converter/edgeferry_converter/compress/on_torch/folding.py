"""Batch normalization that is put into the layer before it, once, before training for the grid begins.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 3.2: the artifact has no normalization, so what is trained has none either. Which layer comes before is read
from the exported graph, since the order of modules does not tell.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.on_torch.rewriting import IN_TRAINING, layer_of, operator

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork

FOLDS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


@dataclass(frozen=True)
class Folded:
    """A network whose normalization is part of its layers.

    Attributes:
        network: A copy, on the CPU; ``nn.Identity`` stands where a normalization was.
        into: By normalization, the layer that it became part of.
        kept: By normalization that is left, the reason.
    """

    network: TorchNetwork
    into: dict[str, str]
    kept: dict[str, str]


def fold(network: TorchNetwork, graph: Any) -> Folded:
    """Fold every batch normalization that follows a convolution or linear layer.

    Args:
        network: Stays as it is.
        graph: What `exporting.export` made of it.
    """
    module = copy.deepcopy(network.module).cpu().eval()
    into: dict[str, str] = {}
    kept: dict[str, str] = {}
    for node in graph.graph.nodes:
        if not _is_normalization(node):
            continue
        norm, before = _owner(node.args[1]), node.args[0]
        reason = _obstacle(module, node, before)
        if reason:
            kept[norm or node.name] = f"is not folded, because {reason}"
            continue
        layer = _owner(before.args[1])
        _fold(module.get_submodule(layer), module.get_submodule(norm))
        module.set_submodule(norm, _identity())
        into[norm] = layer
    return Folded(network.with_module(module), into, kept)


def _is_normalization(node: Any) -> bool:
    return node.op == "call_module" and str(node.target).endswith(IN_TRAINING) and len(node.args) == 5


def _owner(node: Any) -> str:
    return str(node.target).rpartition(".")[0] if node is not None and node.op == "get_attr" else ""


def _obstacle(module: Any, node: Any, before: Any) -> str:
    """Say why a normalization stays; empty where it can be folded."""
    from torch import nn

    norm, layer = _owner(node.args[1]), _owner(before.args[1]) if operator(before) in FOLDS else ""
    if operator(before) not in FOLDS:
        return "no convolution or linear layer comes right before it"
    if len(before.users) > 1:
        return f"others read what {layer_of(before) or before.name} gives it"
    once = all(len(value.users) == 1 for value in (before.args[1], node.args[1]))
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd | nn.Linear)
    parts = dict(module.named_modules())
    plain = all(name and isinstance(parts.get(name), kind) for name, kind in zip((norm, layer), kinds, strict=True))
    if not once or not plain:
        return "it, or the layer before it, is used more than once or is no plain layer"
    along = operator(before) != "linear" or before.meta["val"].ndim == 2
    return "" if along else f"it does not normalize along the outputs of {layer}"


def _fold(layer: Any, norm: Any) -> None:
    """Scale a layer's outputs and shift them, in float64."""
    import torch
    from torch import nn

    with torch.no_grad():
        size = norm.running_mean.numel()
        gamma = torch.ones(size) if norm.weight is None else norm.weight
        beta = torch.zeros(size) if norm.bias is None else norm.bias
        factor = gamma.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = torch.zeros(size) if layer.bias is None else layer.bias
        shifted = (bias.double() - norm.running_mean.double()) * factor + beta.double()
        layer.weight.copy_(layer.weight.double() * _shaped(layer, factor))
        layer.bias = nn.Parameter(shifted.to(layer.weight.dtype))


def _shaped(layer: Any, factor: Any) -> Any:
    """Give a factor of each output channel the shape that it multiplies the kernel in."""
    ones = [1] * (layer.weight.ndim - 2)
    if not getattr(layer, "transposed", False):
        return factor.reshape(-1, 1, *ones)
    inputs = layer.weight.shape[0] // layer.groups
    groups = factor.reshape(layer.groups, 1, -1).expand(-1, inputs, -1)
    return groups.reshape(layer.weight.shape[0], -1, *ones)


def _identity() -> Any:
    from torch import nn

    return nn.Identity()
