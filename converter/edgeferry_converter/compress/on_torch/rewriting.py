"""Rewrites an exported graph for training on the grid.

What behaves differently in training becomes a module again, so that ``train()`` and ``eval()`` switch it as anywhere:
torchao switches dropout by replacing patterns, and gives every dropout the probability of its own pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
IN_TRAINING = "_in_training"
"""How the names of the modules end that training switches."""


def operator(node: Any) -> str:
    """Return the name of the ATen operator that a node calls, without its overload; empty where there is none."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).partition("::")[2] if node.op == "call_function" and schema is not None else ""


def argument(node: Any, name: str, default: Any = None) -> Any:
    """Return an argument of an operator's call by its name in the schema."""
    for i, parameter in enumerate(node.target._schema.arguments):
        if parameter.name == name:
            return node.args[i] if i < len(node.args) else node.kwargs.get(name, default)
    return default


def layer_of(node: Any) -> str:
    """Return the module whose forward made a node; empty for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def without_writing(graph: Any) -> None:
    """Replace what writes into its first argument by what returns the result; who reads that later gets the result."""
    import torch

    for node in list(graph.nodes):
        name = operator(node)
        if not name.endswith("_") or name.endswith("__") or node.args[0].op == "get_attr":
            continue
        packet = getattr(torch.ops.aten, name.rstrip("_"), None)
        plain = getattr(packet, node.target._overloadname, None)
        if plain is None:
            continue
        node.target = plain
        written, order = node.args[0], {other: i for i, other in enumerate(graph.nodes)}
        written.replace_all_uses_with(node, lambda user, at=order[node], order=order: order[user] > at)


def make_switchable(module: Any) -> None:
    """Make modules of what training changes: dropout, and normalization by the batch."""
    for node in list(module.graph.nodes):
        name = operator(node)
        if name in DROPOUT:
            made, inputs = _dropout(name, argument(node, "p")), (node.args[0],)
        elif name == "batch_norm" and argument(node, "running_mean") is not None:
            made = normalization()(argument(node, "momentum"), argument(node, "eps"))
            inputs = tuple(argument(node, key) for key in ("input", "running_mean", "running_var", "weight", "bias"))
        else:
            continue
        target = node.name + IN_TRAINING
        module.add_submodule(target, made)
        with module.graph.inserting_before(node):
            new = module.graph.call_module(target, inputs)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def _dropout(name: str, p: float) -> Any:
    from torch import nn

    kinds: Mapping[str, Any] = {
        "dropout": nn.Dropout,
        "feature_dropout": nn.Dropout2d,
        "alpha_dropout": nn.AlphaDropout,
        "feature_alpha_dropout": nn.FeatureAlphaDropout,
    }
    return kinds[name](p)


def normalization() -> Any:
    """Return the module of batch normalization whose values come as arguments."""
    import torch

    class Normalization(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, momentum: float, eps: float) -> None:
            super().__init__()
            self.momentum, self.eps = momentum, eps

        def forward(self, x: Any, mean: Any, variance: Any, weight: Any, bias: Any) -> Any:
            values = (x, mean, variance, weight, bias, self.training, self.momentum, self.eps)
            return torch.nn.functional.batch_norm(*values)

    return Normalization


def spell_out(graph: Any) -> None:
    """Replace activation functions that the artifact has as several operators, whose results it stores."""
    import torch

    aten = torch.ops.aten
    for node in list(graph.nodes):
        x, name = node.args[0] if node.args else None, operator(node)
        if name == "silu":
            last = _chain(graph, node, x, [(aten.sigmoid.default, ())])
            last = _chain(graph, node, x, [(aten.mul.Tensor, (last,))])
        elif name == "hardsigmoid":
            steps = [(aten.add.Tensor, (3.0,)), (aten.hardtanh.default, (0.0, 6.0)), (aten.mul.Tensor, (1 / 6,))]
            last = _chain(graph, node, x, steps)
        else:
            continue
        node.replace_all_uses_with(last)
        graph.erase_node(node)


def _chain(graph: Any, node: Any, x: Any, steps: list[tuple[Any, tuple[Any, ...]]]) -> Any:
    """Call operators one after the other, each on what the last one gave; return what comes out."""
    for target, others in steps:
        with graph.inserting_before(node):
            x = graph.call_function(target, (x, *others))
        x.meta = dict(node.meta)
    return x
