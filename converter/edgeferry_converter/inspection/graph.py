"""One graph of any format: values, and the nodes that make them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from edgeferry_runtime.tensors import Quantization, TensorSpec

BITS = {
    "bool": 8, "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "uint64": 64, "int32": 32,
    "uint32": 32, "int16": 16, "uint16": 16, "int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2,
    "complex64": 64, "complex128": 128, "float8_e4m3fn": 8, "float8_e5m2": 8,
}  # fmt: skip
"""Size of one element, by the name of its dtype; others have none that is known."""

CASTS = frozenset({"DEQUANTIZE", "DequantizeLinear", "com.microsoft.DequantizeLinear"})
"""Operators that give stored integers or halves as real values; only their first input is data."""


@dataclass(frozen=True)
class Value:
    """A tensor in a graph.

    Attributes:
        name: As the file has it.
        shape: Dimensions, -1 where one is dynamic; None where nothing tells the rank.
        dtype: Its NumPy name, or the format's own where NumPy has none.
        stored: Bytes that the file keeps of it; None where it is computed when the model runs.
        buffer: What identifies the stored bytes, since several values may share them.
        quantization: How stored integers map to real values.
        variable: Whether it keeps its content from run to run.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    stored: int | None = None
    buffer: str = ""
    quantization: Quantization | None = None
    variable: bool = False

    @property
    def elements(self) -> int | None:
        """How many, a dynamic dimension counting 1."""
        return None if self.shape is None else math.prod(max(d, 1) if d < 0 else d for d in self.shape)

    @property
    def bytes(self) -> int | None:
        """Memory that it takes when the model runs; None where shape or size of an element are unknown."""
        bits = BITS.get(self.dtype)
        return None if self.elements is None or bits is None else -(-self.elements * bits // 8)

    @property
    def spec(self) -> TensorSpec:
        """The value as an input or output."""
        return TensorSpec(self.name, self.shape or (), self.dtype, self.quantization)


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        operator: The format's name of it.
        name: The node's own, else its first output's.
        inputs: Keys of `Graph.values`; "" where an optional one is absent.
        outputs: Likewise.
        options: What MACs and layout are computed from, such as ``perm``.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of execution.

    Attributes:
        values: By key.
        nodes: In order.
        inputs: Keys of the inputs.
        outputs: Keys of the outputs.
    """

    values: Mapping[str, Value]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        """The node that makes each value."""
        return {key: node for node in self.nodes for key in node.outputs if key}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The values that never change: constants, and what is computed from constants alone."""
        found = {key for key, value in self.values.items() if value.stored is not None}
        for node in self.nodes:
            present = [key for key in node.inputs if key]
            if present and found.issuperset(present):
                found.update(key for key in node.outputs if key)
        return frozenset(found)

    def constants(self, key: str) -> Iterator[str]:
        """Yield the constants that a fixed value is made of; scales and zero points of a cast are none of them."""
        pending, seen = [key], set()
        while pending:
            key = pending.pop()
            if key in seen or key not in self.fixed:
                continue
            seen.add(key)
            if self.values[key].stored is not None:
                yield key
            else:
                maker = self.makers[key]
                pending += maker.inputs[:1] if maker.operator in CASTS else maker.inputs

    def dims(self, key: str) -> tuple[int, ...] | None:
        """Return a value's shape, a dynamic dimension counting 1; None where the rank is unknown."""
        value = self.values.get(key)
        return None if value is None or value.shape is None else tuple(abs(d) for d in value.shape)
