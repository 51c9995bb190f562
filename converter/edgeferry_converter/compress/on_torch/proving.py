"""Whether channels can really be removed: a trial for every layer, since forward may hold what no graph shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_converter.compress.structure.graph import ChannelGraph
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.network import Arrays
    from edgeferry_converter.compress.on_torch.network import TorchNetwork

CLOSE = 1e-3
"""How far answers may lie apart, relative to the largest."""


def prove(network: TorchNetwork, graph: ChannelGraph) -> None:
    """Freeze the layers whose channels cannot be removed, with what went wrong.

    One class of every layer is removed; the answers must be those of the module in which it is zero. All are tried at
    once, and one by one where that fails.
    """
    trials = _trials(network, graph)
    if not trials or _failure(network, graph, set(trials.values())) is None:
        return
    for layer, root in trials.items():
        reason = _failure(network, graph, {root})
        if reason is not None:
            graph.freeze(graph.layers[layer], reason)


def zeroed(graph: ChannelGraph, state: Mapping[str, Array], roots: Collection[int]) -> Arrays:
    """Return stored values in which whatever makes, scales or takes the channels of some classes is zero."""
    found = {name: np.array(values) for name, values in state.items()}
    for use in graph.uses:
        gone = np.isin(graph.roots(use.ids), list(roots))
        np.moveaxis(found[use.parameter], use.axis, 0)[gone] = 0
    return found


def _trials(network: TorchNetwork, graph: ChannelGraph) -> dict[str, int]:
    """Return by layer one class that may go, if another one is left then; together they empty nothing."""
    frozen = {graph.root(number) for number in graph.frozen}
    uses = [graph.roots(use.ids) for use in graph.uses]
    found: dict[str, int] = {}
    for layer, ids in graph.layers.items():
        free = [int(root) for root in dict.fromkeys(graph.roots(ids).tolist()) if root not in frozen]
        for root in free:
            if _leaves_some(uses, {*found.values(), root}):
                found[layer] = root
                break
    return found


def _leaves_some(uses: list[Array], roots: Collection[int]) -> bool:
    return all(not np.isin(use, list(roots)).all() for use in uses if len(use))


def _failure(network: TorchNetwork, graph: ChannelGraph, roots: Collection[int]) -> str | None:
    """Return why the removal of classes fails, None where it does not."""
    state = network.state()
    feeds = _feeds(network)
    try:
        smaller = network.resized(graph.without(state, roots)).predict(feeds)
    except ConversionError as error:
        return error.reason
    whole = network.clone()
    whole.restore(zeroed(graph, state, roots))
    for name, expected in whole.predict(feeds).items():
        scale = float(np.abs(expected).max(initial=0))
        if not np.allclose(smaller[name], expected, rtol=0, atol=CLOSE * scale, equal_nan=True):
            return "its removal changes more than its own part of the answer"
    return None


def _feeds(network: TorchNetwork) -> Arrays:
    """Return examples in which no two values are alike."""
    random = np.random.default_rng(0)
    found = {}
    for spec, example in zip(network.inputs, network.call.examples, strict=True):
        values = example.detach().cpu().numpy()
        noise = random.standard_normal(values.shape).astype(values.dtype) if values.dtype.kind == "f" else values
        found[spec.name] = noise
    return found
