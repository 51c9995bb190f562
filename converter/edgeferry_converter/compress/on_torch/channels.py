"""Follows every channel of a module through its exported graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.structure.graph import HEAD, MODEL_OUTPUT, ChannelGraph, Use
from edgeferry_converter.quiet import foreign

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork
    from edgeferry_converter.compress.on_torch.tracer import Tracer


def trace(network: TorchNetwork) -> ChannelGraph:
    """Return which parts of which stored values are one channel, each kind of removal being proven by a trial.

    The module is exported for inference with its examples (``torch.export``), and a rule for each operator follows
    the numbers of channels. Then one channel of every layer is removed, and the smaller module must answer what the
    larger one answers without it; layers whose removal fails are frozen with what went wrong.

    Raises:
        ConversionError: If the module cannot be exported.
    """
    from edgeferry_converter.compress.on_torch.channel_rules import follow
    from edgeferry_converter.compress.on_torch.proving import prove

    program = export(network)
    tracer = _tracer(network, program)
    for node in live(program.graph):
        follow(tracer, node)
    for node in next(node for node in program.graph.nodes if node.op == "output").all_input_nodes:
        tracer.freeze(tracer.of(node), MODEL_OUTPUT)
    tracer.finish()
    _keep_whole(network.module, tracer.graph)
    _also_by_other_names(network.module, tracer.graph)
    _name_heads(tracer)
    prove(network, tracer.graph)
    return tracer.graph


def export(network: TorchNetwork) -> Any:
    """Return the exported program of a module in inference, of the sizes of its examples."""
    import torch
    from torch.utils import _pytree as pytree

    network.module.eval()
    examples = network.examples()
    args, kwargs = pytree.tree_unflatten(list(examples), network.call.structure)
    fix = "its forward must be traceable by torch.export; prune its weights instead, or run again with -v"
    with foreign(network.name, "torch.export could not trace it", fix), torch.enable_grad():
        return torch.export.export(network.module, tuple(args), dict(kwargs))


def live(graph: Any) -> Iterator[Any]:
    """Yield the operators that an output depends on, in order."""
    wanted = set(next(node for node in graph.nodes if node.op == "output").all_input_nodes)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    yield from (node for node in graph.nodes if node in wanted and node.op == "call_function")


def _tracer(network: TorchNetwork, program: Any) -> Tracer:
    from edgeferry_converter.compress.on_torch.tracer import Tracer

    signature, state = program.graph_signature, network.module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = {**signature.inputs_to_lifted_tensor_constants, **names}
    fixed = {**dict(network.module.named_buffers()), **program.constants}
    stored = {n: first[id(state[names[n.name]])] for n in program.graph.nodes if names.get(n.name) in state}
    detached = {name: state[name].detach().cpu() for name in first.values()}
    tracer = Tracer(stored, {name: detached[first[id(t)]] for name, t in state.items()}, network.batch())
    others = (node for node in program.graph.nodes if node.name in lifted and node not in stored)
    tracer.constants = {node: fixed[lifted[node.name]].detach().cpu() for node in others}
    return tracer


def _keep_whole(module: Any, graph: ChannelGraph) -> None:
    """Freeze what belongs to modules of PyTorch that check or compute their sizes themselves."""
    from torch import nn

    kinds = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
    parts = {name: type(part).__name__ for name, part in module.named_modules() if isinstance(part, kinds)}
    for name, kind in parts.items():
        for use in graph.uses:
            if use.parameter.startswith(f"{name}." if name else ""):
                graph.freeze(use.ids, f"nn.{kind} keeps its sizes")
        for layer in [layer for layer in graph.layers if layer == name or layer.startswith(f"{name}.")]:
            del graph.layers[layer]
        graph.kept[name] = f"nn.{kind} keeps its sizes"


def _also_by_other_names(module: Any, graph: ChannelGraph) -> None:
    """Repeat the uses of stored values that the module has under several names, and note which those are."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    graph.repeated.update(*(group[1:] for group in names.values()))
    others = {own: [other for other in group if other != own] for group in names.values() for own in group}
    known = {(use.parameter, use.axis) for use in graph.uses}
    for use in list(graph.uses):
        for other in others.get(use.parameter, ()):
            if (other, use.axis) not in known:
                graph.uses.append(Use(other, use.axis, use.ids, use.role))


def _name_heads(tracer: Tracer) -> None:
    graph = tracer.graph
    heads = {int(root) for ids in tracer.heads for root in graph.roots(ids)}
    for layer, ids in graph.layers.items():
        if heads.issuperset(np.unique(graph.roots(ids)).tolist()):
            graph.kinds[layer] = HEAD
