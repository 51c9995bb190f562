"""The nodes of a TFLite file, with what the rules of delegates ask about."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeferry_runtime.flatbuffer import Buffer, Table
from edgeferry_runtime.lint.names import CUSTOM, DTYPES, OPERATORS
from edgeferry_runtime.tflite_file import read_tflite

SMALL = 256
"""Bytes of a constant that may hold axes, sizes or paddings."""


@dataclass(frozen=True)
class Value:
    """A tensor.

    Attributes:
        index: Its number in the graph.
        name: Its name.
        shape: Its dimensions, -1 where one is dynamic.
        dtype: Such as ``int8``.
        constant: Whether the file holds it.
        variable: Whether it keeps its content between runs.
        blockwise: Whether its scales belong to blocks.
        ints: The values of a small int32 constant, in order.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    variable: bool = False
    blockwise: bool = False
    ints: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """How many, a dynamic dimension counting 1."""
        count = 1
        for dim in self.shape:
            count *= abs(dim)
        return count


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        index: Its number in the graph.
        operator: TFLite's name, or the custom operator's own.
        inputs: Its tensors; None where an optional one is left out.
        outputs: Likewise.
        options: The table of its options, readable while the file is mapped.
    """

    index: int
    operator: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    options: Table | None = field(default=None, compare=False)

    @property
    def data(self) -> tuple[Value, ...]:
        """The tensors that are computed at run time: neither constants nor variables."""
        given = (value for value in self.inputs if value is not None)
        return tuple(value for value in (*given, *self.outputs) if not value.constant and not value.variable)

    def input(self, place: int) -> Value | None:
        """Return one of the inputs; None where there is none."""
        return self.inputs[place] if place < len(self.inputs) else None

    def option(self, slot: int) -> int:
        """Return an option of 4 bytes; 0 where it has its default, which may be another."""
        return self.options.u32(slot) if self.options else 0

    def option_byte(self, slot: int) -> int:
        """Return an option of 1 byte, likewise."""
        return self.options.u8(slot) if self.options else 0


def read_graph(data: Buffer) -> list[Node]:
    """Read the graph that is run of a verified file, in the order of execution."""
    model = Table.root(data)
    signature = read_tflite(data).primary
    graph = model.tables(2)[signature.subgraph if signature else 0]
    buffers = model.tables(4)
    values = [_value(index, tensor, buffers) for index, tensor in enumerate(graph.tables(0))]
    codes = [_operator(code) for code in model.tables(1)]
    return [
        Node(index, codes[operator.u32(0)], *_sides(operator, values), operator.table(4))
        for index, operator in enumerate(graph.tables(3))
    ]


def _sides(operator: Table, values: Sequence[Value]) -> tuple[tuple[Value | None, ...], tuple[Value, ...]]:
    inputs = tuple(values[index] if index >= 0 else None for index in operator.ints(1))
    return inputs, tuple(values[index] for index in operator.ints(2) if index >= 0)


def _operator(code: Table) -> str:
    number = max(code.u8(0), code.u32(3))
    if number == CUSTOM:
        return code.text(1) or "CUSTOM"
    return OPERATORS[number] if number < len(OPERATORS) else f"operator {number}"


def _value(index: int, tensor: Table, buffers: Sequence[Table]) -> Value:
    place, number = tensor.u32(2), tensor.u8(1)
    buffer = buffers[place] if 0 < place < len(buffers) else None
    size = buffer.length(0) if buffer else 0
    dtype = DTYPES[number] if number < len(DTYPES) else f"type {number}"
    raw = buffer.raw(0) if buffer and dtype == "int32" and 0 < size <= SMALL else b""
    quantization = tensor.table(4)
    shape, signature = tensor.ints(0), tensor.ints(7)
    return Value(
        index=index,
        name=tensor.text(3),
        shape=signature if len(signature) == len(shape) else shape,
        dtype=dtype,
        constant=size > 0 or (buffer is not None and buffer.u64(1) > 1),
        variable=bool(tensor.u8(5)),
        blockwise=quantization is not None and quantization.u8(4) == 2,
        ints=struct.unpack(f"<{len(raw) // 4}i", raw[: len(raw) // 4 * 4]),
    )
