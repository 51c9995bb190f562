"""Traces every channel through a Keras model: a walk along the calls of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.structure.graph import MODEL_INPUT, MODEL_OUTPUT, ChannelGraph, Cost, Use
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        path: The layer's, as `KerasNetwork.parts` has it.
        layer: A ``keras.Layer``, or an operation such as ``keras.ops.add``.
        args: As it was called, with symbolic tensors.
        kwargs: Likewise.
        tensors: Those of them that are symbolic, in their order.
        ids: The channels of each.
        output: The symbolic tensor that comes out.
    """

    path: str
    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: tuple[Any, ...]
    ids: tuple[Array, ...]
    output: Any

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.layer).__name__


@dataclass
class Tracer:
    """A graph in the making.

    Attributes:
        names: By identity of a variable, what `Network.state` calls it.
        graph: What was found so far.
    """

    names: Mapping[int, str]
    graph: ChannelGraph = field(default_factory=ChannelGraph)
    _uses: dict[tuple[str, int], Use] = field(default_factory=dict)

    def use(self, variable: Any, axis: int, ids: Array, role: str) -> None:
        """Say whose channels an axis of a variable has; where it is used twice, they become one."""
        use = Use(self.names[id(variable)], axis, ids, role)
        known = self._uses.setdefault((use.parameter, axis), use)
        if known is use:
            self.graph.uses.append(use)
        else:
            self.graph.unite(known.ids, ids)

    def made(self, layer: str, ids: Array) -> None:
        """Say that a layer makes channels; one that is called twice made them already."""
        self.graph.layers.setdefault(layer, ids)

    def cost(self, layer: str, macs: int, inputs: Array | None, outputs: Array) -> None:
        """Say what a call multiplies."""
        self.graph.costs.append(Cost(layer, macs, inputs, outputs))

    def walk(self, model: Any, inputs: Sequence[Array], prefix: str = "") -> list[Array]:
        """Follow the calls inside of a model and return the channels of its outputs."""
        model = getattr(model, "_functional", None) or model
        found = {id(tensor): ids for tensor, ids in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.operation and not node.is_input:
                    answers = self._follow(node, found, prefix)
                    found |= {id(tensor): ids for tensor, ids in zip(node.outputs, answers, strict=True)}
        return [found[id(tensor)] for tensor in model.outputs]

    def unknown(self, call: Call, outputs: Sequence[Any], reason: str) -> list[Array]:
        """Leave everything around a call as it is, for a reason."""
        for ids in call.ids:
            self.graph.freeze(ids, f"{call.path!r} takes it: {reason}")
        self.graph.kept[call.path] = reason
        made = [self.graph.new(width(tensor)) for tensor in outputs]
        for ids in made:
            self.graph.freeze(ids, f"{call.path!r} makes it: {reason}")
        return made

    def _follow(self, node: Any, found: Mapping[int, Array], prefix: str) -> list[Array]:
        from edgeferry_converter.compress.on_keras.channel_rules import RULES

        layer, tensors = node.operation, tuple(node.input_tensors)
        path = f"{prefix}{layer.name}"
        ids = tuple(found[id(tensor)] for tensor in tensors)
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            return self.walk(layer, ids, f"{path}/")
        call = Call(path, layer, node.arguments.args, node.arguments.kwargs, tensors, ids, node.outputs[0])
        rule = RULES.get(call.kind)
        if rule is None or len(node.outputs) > 1:
            return self.unknown(call, node.outputs, f"its kind, {call.kind}, is not known")
        answer = rule(self, call)
        if isinstance(answer, str):
            return self.unknown(call, node.outputs, answer)
        return [answer]


def trace(network: KerasNetwork) -> ChannelGraph:
    """Trace a functional or sequential model, models inside included.

    Raises:
        ConversionError: If the model cannot be followed.
    """
    tracer = Tracer(network.names())
    with foreign(network.name, "its channels could not be traced"):
        inputs = [tracer.graph.new(width(tensor)) for tensor in network.model.inputs]
        for ids in inputs:
            tracer.graph.freeze(ids, MODEL_INPUT)
        for ids in tracer.walk(network.model, inputs):
            tracer.graph.frozen |= dict.fromkeys(map(int, ids), MODEL_OUTPUT)
    return tracer.graph


def width(tensor: Any) -> int:
    """Return how many channels a symbolic tensor has; 0 where that is not known."""
    return int(tensor.shape[-1] or 0) if len(tensor.shape) else 0


def positions(tensor: Any) -> int:
    """Return how many pixels, or steps in time, one sample has; 0 where that is not known."""
    return math.prod(int(size or 0) for size in tensor.shape[1:-1])


def size(variable: Any) -> int:
    """Return how many values a variable has."""
    return int(np.prod(variable.shape))
