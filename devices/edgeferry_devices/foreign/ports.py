"""Inputs and outputs in the order in which a TFLite file's graph has them, as programs that know no names want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeferry_runtime.flatbuffer import Table, map_file
from edgeferry_runtime.tensors import TensorSpec
from edgeferry_runtime.tflite_file import Signature, read_tflite


def in_order(
    path: Path, signature: str | None, sides: tuple[Sequence[TensorSpec], Sequence[TensorSpec]]
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Bring inputs and outputs into the graph's order.

    Args:
        path: A verified ``.tflite`` file.
        signature: Whose they are; None takes the primary one.
        sides: The inputs and the outputs, in any order.

    Raises:
        UnknownNameError: If the file has no such signature.
        ValueError: If they are not the graph's.
    """
    with map_file(path) as data:
        chosen = read_tflite(data).choose(signature)
        graph = Table.root(data).tables(2)[chosen.subgraph if chosen else 0]
        tensors = [tensor.text(3) for tensor in graph.tables(0)]
        inputs, outputs = ([(i, tensors[i]) for i in graph.ints(slot)] for slot in (1, 2))
    maps = _names(chosen, "inputs", inputs), _names(chosen, "outputs", outputs)
    first, second = (_arrange(specs, names) for specs, names in zip(sides, maps, strict=True))
    return first, second


def _names(signature: Signature | None, side: str, tensors: Sequence[tuple[int, str]]) -> list[str]:
    """Name the tensors of a side: by the signature, else by themselves, else by their position."""
    if signature is not None:
        by_index: Mapping[int, str] = {index: name for name, index in getattr(signature, side).items()}
        return [by_index.get(index, "") for index, _ in tensors]
    names = [name for _, name in tensors]
    if "" in names or len(set(names)) < len(names):
        return [f"{side.removesuffix('s')}_{i}" for i in range(len(names))]
    return names


def _arrange(specs: Sequence[TensorSpec], names: Sequence[str]) -> list[TensorSpec]:
    known = {spec.name: spec for spec in specs}
    if set(names) != set(known) or len(names) != len(known):
        raise ValueError(f"{', '.join(known)} are not {', '.join(names)}")
    return [known[name] for name in names]
