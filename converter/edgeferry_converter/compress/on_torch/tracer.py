"""What is known while the channels of an exported graph are followed, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from edgeferry_converter.compress.on_torch.numbering import collapse, flat, spread, varying
from edgeferry_converter.compress.structure.graph import MODEL_INPUT, ChannelGraph, Cost, Use
from edgeferry_runtime.tensors import Array

MOST_ELEMENTS = 1 << 18
"""The largest stored value whose elements are numbered one by one."""


class Tracer:
    """Numbers the channels of a graph. A value without numbers has a fixed size, such as an input or a mask.

    Attributes:
        graph: What is found.
        stored: By node, the name of the parameter or buffer that it is.
        tensors: By the names of stored values, the tensors.
        constants: By node, tensors of the code that are not stored.
        values: By node, its numbers: a tensor of its shape, None, or a list of those.
        blamed: By node without numbers, which operator they were lost in.
        cuts: Parts of one tensor that must stay equally large, with the operator that cut them.
        heads: Numbers of attention heads.
        batch: How many samples the example has.
    """

    def __init__(self, stored: Mapping[Any, str], tensors: Mapping[str, Any], batch: int) -> None:
        self.graph = ChannelGraph()
        self.stored, self.tensors, self.batch = stored, tensors, batch
        self.constants: dict[Any, Any] = {}
        self.values: dict[Any, Any] = {}
        self.blamed: dict[Any, str] = {}
        self.cuts: list[tuple[str, list[Any]]] = []
        self.heads: list[Array] = []
        self._checks: list[tuple[Any, Callable[[], bool], str]] = []
        self._uses: dict[tuple[str, int], Use] = {}
        self._elements: dict[str, Any] = {}

    def of(self, argument: Any) -> Any:
        """Return the numbers of an operator's argument: a tensor, or None."""
        import torch

        if argument in self.stored:
            return self._numbered(self.stored[argument])
        found = self.values.get(argument) if isinstance(argument, torch.fx.Node) else None
        return found if isinstance(found, torch.Tensor) else None

    def _numbered(self, name: str) -> Any:
        """Number the elements of a stored value that no rule knows; what they are united with will tell its axis."""
        import torch

        tensor = self.tensors[name]
        if not tensor.is_floating_point() or not 1 < tensor.numel() <= MOST_ELEMENTS:
            return None
        if name not in self._elements:
            self._elements[name] = torch.from_numpy(self.graph.new(tensor.numel())).reshape(tensor.shape)
        return self._elements[name]

    def known(self, argument: Any) -> Any:
        """Return the tensor that a stored value or constant is, such as an index; None for what is computed."""
        return self.tensors[self.stored[argument]] if argument in self.stored else self.constants.get(argument)

    def name(self, argument: Any) -> str | None:
        """Return the name of the stored value that an argument is."""
        return self.stored.get(argument)

    def along(self, argument: Any, axis: int) -> Array:
        """Return the numbers along one axis, having made one what differs along others; fixed where there are none."""
        numbers = self.of(argument)
        if numbers is None:
            return self.fixed(shape_of(argument)[axis], self.why_fixed(argument))
        axis %= numbers.ndim
        rows = collapse(numbers).movedim(axis, 0)
        rows = rows.reshape(len(rows), -1)
        for column in range(1, rows.shape[1]):
            self.graph.unite(rows[:, column].numpy(), rows[:, 0].numpy())
        ids: Array = rows[:, 0].numpy()
        return ids if len(ids) == numbers.shape[axis] else np.repeat(ids, numbers.shape[axis])

    def why_fixed(self, argument: Any) -> str:
        """Return why a value without numbers has a fixed size: what made it, or else that it comes from outside."""
        return self.blamed.get(argument, MODEL_INPUT)

    def fixed(self, count: int, reason: str) -> Array:
        """Return new numbers that must stay."""
        ids = self.graph.new(count)
        self.graph.freeze(ids, reason)
        return ids

    def freeze(self, numbers: Any, reason: str) -> None:
        """Say that all that occurs in numbers must stay; nothing where there are none."""
        if numbers is not None:
            self.graph.freeze(flat(numbers), reason)

    def check(self, numbers: Any, holds: Callable[[], bool], reason: str) -> None:
        """Freeze what occurs in numbers if something does not hold once all channels are united."""
        self._checks.append((numbers, holds, reason))

    def use(self, name: str | None, axis: int, ids: Array, role: str) -> None:
        """Say that an axis of a stored value has these channels; one that is used twice makes them one."""
        if name is None:
            return
        known = self._uses.get((name, axis))
        if known is None:
            self._uses[name, axis] = Use(name, axis, ids, role)
        else:
            self.graph.unite(ids, known.ids)

    def make(self, name: str, axis: int, role: str = "output") -> Array:
        """Return the channels that an axis of a stored value makes: new ones, unless it is used already."""
        known = self._uses.get((name, axis))
        ids = known.ids if known else self.graph.new(self.tensors[name].shape[axis])
        self.use(name, axis, ids, role)
        return ids

    def layer(self, node: Any, name: str, ids: Array) -> str:
        """Note that the layer of a kernel makes channels, and return its name."""
        layer = self.layer_of(node, name)
        self.graph.layers[layer] = ids
        return layer

    def layer_of(self, node: Any, name: str) -> str:
        """Return the layer of a kernel: the module that is called, if the kernel is its own, else the kernel's name."""
        called = scope(node)
        here = f"{called}.weight" if called else "weight"
        if here in self.tensors and self.tensors[here] is self.tensors[name]:
            return called
        owner, _, last = name.rpartition(".")
        return owner if last == "weight" else name

    def cost(self, layer: str, macs: int, inputs: Array | None, outputs: Array) -> None:
        """Note the multiply-accumulates of one batch."""
        self.graph.costs.append(Cost(layer, macs // self.batch, inputs, outputs))

    def put(self, node: Any, ids: Array, axis: int) -> None:
        """Give a node channels along one axis."""
        self.values[node] = spread(ids, axis, shape_of(node))

    def finish(self) -> None:
        """Turn elements into axes, and freeze what would not be a rectangle, or not be cut evenly, any more."""
        used = {name for name, _ in self._uses}
        for name, numbers in self._elements.items():
            roots = self.roots(numbers)
            axes = varying(roots)
            if name in used or len(axes) > 1:
                self.freeze(numbers, f"{name!r} is used in several ways")
            elif axes:
                self.use(name, axes[0], _line(numbers, axes[0]), "other")
        for node, value in self.values.items():
            for numbers in value if isinstance(value, list) else [value]:
                if numbers is not None and len(varying(self.roots(numbers))) > 1:
                    self.freeze(numbers, f"its channels lie on several axes after {operator(node)}")
        for numbers, holds, reason in self._checks:
            if not holds():
                self.freeze(numbers, reason)
        for name, parts in self.cuts:
            if not self._alike(parts):
                for part in parts:
                    self.freeze(part, f"{name} cuts its channels into parts that are not alike")
        self.graph.uses.extend(self._uses.values())

    def roots(self, numbers: Any) -> Any:
        """Return the classes of numbers, as small as they can be said."""
        import torch

        small = collapse(numbers)
        known, places = torch.unique(small, return_inverse=True)
        return torch.from_numpy(self.graph.roots(known.numpy()))[places]

    def _alike(self, parts: Iterable[Any]) -> bool:
        import torch

        classes = [self.roots(part) for part in parts]
        return all(torch.equal(classes[0], other) for other in classes[1:])


def _line(numbers: Any, axis: int) -> Array:
    rows = numbers.movedim(axis, 0)
    ids: Array = rows.reshape(len(rows), -1)[:, 0].numpy()
    return ids


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's tensor."""
    return tuple(int(size) for size in node.meta["val"].shape)


def volume(node: Any) -> int:
    """Return how many elements a node's tensor has."""
    return math.prod(shape_of(node))


def scope(node: Any) -> str:
    """Return the innermost module that a node was traced in; empty for the whole."""
    scopes = list((node.meta.get("nn_module_stack") or {}).values())
    return str(scopes[-1][0]) if scopes else ""


def operator(node: Any) -> str:
    """Return the name of a node's operator, such as ``softmax``."""
    target = node.target
    return str(getattr(target, "overloadpacket", target).__name__).rpartition(".")[2]


def arguments(node: Any) -> dict[str, Any]:
    """Return an operator's arguments by the names of its schema, defaults included."""
    schema = node.target._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= dict(zip((a.name for a in schema), node.args, strict=False))
    return {**given, **node.kwargs}
