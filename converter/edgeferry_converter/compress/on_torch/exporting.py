"""A PyTorch module as a graph of operators that can be trained: exported with a batch of any size, and rewritten."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.on_torch.rewriting import (
    layer_of,
    make_switchable,
    operator,
    spell_out,
    without_writing,
)
from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.torch_lowering import named_outputs, resize_batch
from edgeferry_runtime.errors import ConversionError

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork

FIX = "let forward be free of branches over values and of sizes that are fixed, or leave the step quantize out"
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "quantized_lstm")
CLOSE = 1e-3
"""How far the graph's outputs may be from the module's, beside the largest of them."""


def export(network: TorchNetwork) -> Any:
    """Return the network's module as a ``GraphModule`` whose parameters bear the module's names.

    Raises:
        ConversionError: If it cannot be traced for any batch, branches over values, or has a recurrent operator.
    """
    import torch

    module = network.module.eval()
    with foreign(network.name, "torch.export could not trace it for a batch of any size", FIX):
        args, kwargs = _arguments(network, [_two(example) for example in network.examples()])
        shapes = _arguments(network, [_free(example) for example in network.examples()])
        bound = inspect.signature(module.forward).bind(*shapes[0], **shapes[1])
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dict(bound.arguments))
        graph = program.module(check_guards=False)
    _refuse(network.name, graph.graph)
    without_writing(graph.graph)
    spell_out(graph.graph)
    make_switchable(graph)
    return torch.fx.GraphModule(graph, graph.graph)


def _arguments(network: TorchNetwork, leaves: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    from torch.utils import _pytree as pytree

    args, kwargs = pytree.tree_unflatten(leaves, network.call.structure)
    return tuple(args), dict(kwargs)


def _two(example: Any) -> Any:
    """Return two samples, since exporters take 0 and 1 for constants."""
    return resize_batch(example, 2) if example.ndim else example


def _free(example: Any) -> dict[int, Any]:
    import torch

    return {0: torch.export.Dim.DYNAMIC} if example.ndim else {}


def _refuse(name: str, graph: Any) -> None:
    for node in graph.nodes:
        if node.op == "call_function" and getattr(node.target, "namespace", "") == "higher_order":
            raise ConversionError(name, f"branches or loops inside of its graph ({node.name})", FIX)
        if operator(node) in RECURRENT:
            where = f"its layer {layer_of(node)!r} is one operator ({operator(node)}), into which PT2E cannot look"
            fix = "leave the step quantize out, and convert with --quantize dynamic or weight-only"
            raise ConversionError(name, where, fix)


def check(network: TorchNetwork, graph: Any) -> None:
    """Prove on random inputs that a graph computes what a network's module does.

    Raises:
        ConversionError: If it does not.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    feeds = tuple(_noise(_two(example), generator) for example in network.call.examples)
    with foreign(network.name, "its exported graph cannot be run", FIX):
        before, after = (_answers(network, module.eval(), feeds) for module in (network.module, graph))
    for name, wanted in before.items():
        if wanted.numel() and not (after[name] - wanted).abs().max() <= CLOSE * wanted.abs().max():
            raise ConversionError(network.name, f"its exported graph computes another {name} than the module", FIX)


def _answers(network: TorchNetwork, module: Any, feeds: tuple[Any, ...]) -> dict[str, Any]:
    import torch

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        answer = network.call.with_module(module)(tuple(feed.to(device) for feed in feeds))
    return {name: tensor.float().cpu() for name, tensor in named_outputs(network.name, answer).items()}


def _noise(example: Any, generator: Any) -> Any:
    import torch

    if not example.is_floating_point():
        return example
    return torch.rand(example.shape, generator=generator).to(example.dtype)
