"""A walk over the protobuf wire format of an ONNX file, without protobuf.

Source: onnx.proto3 of ONNX 1.18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgeferry_runtime.flatbuffer import Buffer
from edgeferry_runtime.protobuf import BYTES, WireError, fields

DEPTH = 100
"""How deep graphs may nest in attributes of graphs; protobuf's own limit."""

MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 14: "Entry", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 11: "Value", 12: "Value", 13: "Value", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "Tensor": {13: "Entry"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 9: "OperatorSet"},
    "OperatorSet": {},
    "Entry": {},
    "Value": {},
}
"""By message, the fields that hold messages; all others are skipped by their length."""


@dataclass
class OnnxFile:
    """What a walk found.

    Attributes:
        graphs: How many graphs there are, the model's own among them.
        external: Of each tensor kept in another file: its ``location``, ``offset`` and ``length``.
    """

    graphs: int = 0
    external: list[Mapping[str, str]] = field(default_factory=list)


def walk_onnx(data: Buffer) -> OnnxFile:
    """Walk every message of a model.

    Args:
        data: The whole file.

    Raises:
        WireError: At the first byte that is not well-formed.
    """
    found = OnnxFile()
    _walk(data, (0, len(data)), "Model", found, DEPTH)
    return found


def read_metadata(data: Buffer) -> dict[str, str]:
    """Return the ``metadata_props`` of a model that `walk_onnx` has found sound."""
    entries = (_entry(data, start, end) for number, _, start, end in fields(data, 0, len(data)) if number == 14)
    return {key: value for entry in entries for key, value in entry.items()}


@dataclass(frozen=True)
class OnnxNode:
    """One node of a graph.

    Attributes:
        operator: Such as ``Conv``.
        inputs: Names of tensors; empty where an optional one is left out.
        outputs: Likewise.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(data: Buffer) -> Iterator[OnnxNode]:
    """Yield the nodes of the main graph of a model that `walk_onnx` has found sound."""
    graphs = (span for number, _, *span in fields(data, 0, len(data)) if number == 7)
    for start, end in graphs:
        for number, _, *span in fields(data, start, end):
            if number == 1:
                yield _node(data, *span)


def _node(data: Buffer, start: int, end: int) -> OnnxNode:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for number, _, a, b in fields(data, start, end):
        if number in texts:
            texts[number].append(data[a:b].decode(errors="replace"))
    return OnnxNode("".join(texts[4][-1:]), tuple(texts[1]), tuple(texts[2]))


def _walk(data: Buffer, span: tuple[int, int], name: str, found: OnnxFile, depth: int) -> None:
    if not depth:
        raise WireError(f"messages nest deeper than {DEPTH}")
    found.graphs += name == "Graph"
    inner, entries = MESSAGES[name], {}
    for number, wire, start, end in fields(data, *span):
        if number not in inner:
            continue
        if wire != BYTES:
            raise WireError(f"field {number} of {name} at byte {start} is no message")
        if inner[number] == "Entry":
            entries.update(_entry(data, start, end))
        else:
            _walk(data, (start, end), inner[number], found, depth - 1)
    if name == "Tensor" and entries:
        found.external.append(entries)


def _entry(data: Buffer, start: int, end: int) -> dict[str, str]:
    texts = {number: data[a:b].decode(errors="replace") for number, wire, a, b in fields(data, start, end)}
    return {texts.get(1, ""): texts.get(2, "")}
