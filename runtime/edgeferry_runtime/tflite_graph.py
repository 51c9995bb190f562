"""What the numbers of a TFLite file must say together, so that an engine can trust them.

A native interpreter reads what a node names without asking whether anything was ever written there, and writes into
what is a constant of the mapped file. Both end its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from edgeferry_runtime.flatbuffer import FlatbufferError, Table

Ints = tuple[int, ...]

MOST_ELEMENTS = 1 << 40
"""Of a tensor; more is a lie, and products of more overflow."""

CALLS: Mapping[tuple[int, int], tuple[int, ...]] = {
    (3, 16): (0,),
    (3, 92): (0, 1),
    (3, 93): (0, 1),
    (3, 103): (0,),
    (11, 15): (0, 1),
    (11, 21): (1,),
}
"""By an operator's slot and tag of options, their slots that name the subgraphs which it runs."""

NEEDED: Mapping[int, int] = {
    **{3: 2, 4: 2, 9: 2, 67: 3, 132: 2, 141: 3},
    **{16: 1, 24: 1, 27: 1, 35: 1, 44: 1, 46: 1, 52: 1, 32: 0},
}
"""Of operators with inputs that may be left out, how many of the first may not: convolutions and fully connected;
recurrent ones, and custom ones."""
OPTIONAL_FROM = 162
"""Newer ones, of which that is not known."""


def check_graphs(model: Table) -> None:
    """Prove that indices exist, that what nodes read was written before, and that no subgraph runs itself.

    Args:
        model: The root of a flatbuffer that was verified.

    Raises:
        FlatbufferError: At the first that does not hold.
    """
    codes, buffers, subgraphs = model.tables(1), model.tables(4), model.tables(2)
    if not subgraphs:
        raise FlatbufferError("the model has no subgraph")
    kinds = [max(code.u8(0), code.u32(3)) for code in codes]
    for buffer in buffers:
        _check_outside(buffer, 1, 2)
    constants = {i for i, buffer in enumerate(buffers) if i and (buffer.length(0) or buffer.u64(1) > 1)}
    for subgraph in subgraphs:
        _check_subgraph(subgraph, kinds, len(buffers), constants)
    _check_calls([set(_called(subgraph)) for subgraph in subgraphs])
    for metadata in model.tables(6):
        _check_range("buffer", [metadata.u32(1)], len(buffers))
    for signature in model.tables(7):
        _check_range("subgraph", [signature.u32(4)], len(subgraphs))
        tensors = len(subgraphs[signature.u32(4)].tables(0))
        _check_range("tensor", [entry.u32(1) for slot in (0, 1) for entry in signature.tables(slot)], tensors)


def _check_subgraph(subgraph: Table, kinds: Sequence[int], buffers: int, constants: set[int]) -> None:
    tensors, operators = subgraph.tables(0), subgraph.tables(3)
    kept = [tensor.u32(2) for tensor in tensors]
    _check_range("buffer", kept, max(buffers, 1))
    for slot in (1, 2):
        _check_range("tensor", subgraph.ints(slot), len(tensors))
    _check_range("operator code", [operator.u32(0) for operator in operators], len(kinds))
    flow = [(operator.ints(1), operator.ints(2)) for operator in operators]
    for operator, sides in zip(operators, flow, strict=True):
        kind = kinds[operator.u32(0)]
        needed = 0 if kind >= OPTIONAL_FROM else NEEDED.get(kind, len(sides[0]))
        _check_range("tensor", sides[0][:needed], len(tensors))
        _check_range("tensor", sides[0][needed:], len(tensors), optional=-1)
        for indices in (sides[1], operator.ints(8)):
            _check_range("tensor", indices, len(tensors), optional=-1)
        _check_outside(operator, 9, 10)
    fixed = {i for i, buffer in enumerate(kept) if buffer in constants}
    _check_flow((subgraph.ints(1), subgraph.ints(2)), flow, fixed, _initial(tensors))


def _initial(tensors: Sequence[Table]) -> set[int]:
    """Return the tensors that may be read though nothing wrote them: variables, and those without elements."""
    found = set()
    for index, tensor in enumerate(tensors):
        shape = tensor.ints(0)
        if shape and min(shape) < -1:
            raise FlatbufferError(f"tensor {index} has a dimension of {min(shape)}")
        if prod(shape) > MOST_ELEMENTS:
            raise FlatbufferError(f"tensor {index} has more than {MOST_ELEMENTS} elements")
        if 0 in shape or tensor.u8(5):
            found.add(index)
    return found


def _check_flow(ports: tuple[Ints, Ints], nodes: Sequence[tuple[Ints, Ints]], fixed: set[int], known: set[int]) -> None:
    """Prove that nodes read what was written before, and that nobody writes into a constant of the file.

    Args:
        ports: The inputs and outputs of a subgraph.
        nodes: The same of each of its nodes.
        fixed: The constants.
        known: What else may be read though nothing wrote it.
    """
    inputs, outputs = ports
    _check_written(inputs, fixed)
    known = fixed.union(inputs, known, (-1,))
    for read, written in nodes:
        if not known.issuperset(read):
            raise FlatbufferError(f"tensor {min(set(read) - known)} is read before anything is written to it")
        _check_written(written, fixed)
        known.update(written)
    if not known.issuperset(outputs):
        raise FlatbufferError(f"tensor {min(set(outputs) - known)} is an output, and nothing is written to it")


def _check_written(tensors: Sequence[int], fixed: set[int]) -> None:
    if not fixed.isdisjoint(tensors):
        raise FlatbufferError(f"tensor {min(fixed & set(tensors))} is a constant, and is written to")


def _called(subgraph: Table) -> Iterator[int]:
    """Yield the subgraphs that a subgraph's nodes run."""
    for operator in subgraph.tables(3):
        for slot in (3, 11):
            slots = CALLS.get((slot, operator.u8(slot)))
            options = operator.table(slot + 1) if slots else None
            if options and slots:
                yield from (options.u32(each) for each in slots)


def _check_calls(calls: Sequence[set[int]]) -> None:
    """Prove that every subgraph that is run exists, and that none runs itself, be it through others."""
    for called in calls:
        _check_range("subgraph", called, len(calls))
    done: set[int] = set()
    while len(done) < len(calls):
        ready = {i for i, called in enumerate(calls) if i not in done and called <= done}
        if not ready:
            raise FlatbufferError("subgraphs run each other without end")
        done |= ready


def _check_range(what: str, indices: Iterable[int], count: int, optional: int = 0) -> None:
    for index in indices:
        if not optional <= index < count:
            raise FlatbufferError(f"{what} {index} is named, and there are {count}")


def _check_outside(table: Table, offset_slot: int, size_slot: int) -> None:
    """Check bytes kept behind the flatbuffer, as files beyond 2 GB do; an offset of 0 or 1 means none."""
    offset, size = table.u64(offset_slot), table.u64(size_slot)
    if offset > 1 and offset + size > len(table.data):
        raise FlatbufferError(f"a buffer leads to byte {offset + size} of {len(table.data)}")
