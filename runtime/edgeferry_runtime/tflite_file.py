"""What a TFLite file says about itself, read without an engine: signatures and custom operators."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.flatbuffer import Buffer, Layouts, Table, parse_layouts, verify
from edgeferry_runtime.tflite_graph import check_graphs
from edgeferry_runtime.tflite_schema import SCHEMA

IDENTIFIER = b"TFL3"

VAR_HANDLE = 142
"""The builtin operator that names a resource variable."""


@dataclass(frozen=True)
class Signature:
    """A named way into a model.

    Attributes:
        key: Its name, such as ``serving_default``.
        subgraph: The subgraph that it runs.
        inputs: Tensor index by input name.
        outputs: Tensor index by output name.
    """

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class TfliteFile:
    """What a file says about itself.

    Attributes:
        signatures: Its signatures; many files have none.
        custom_ops: Names of the operators that are not TFLite's own.
        nodes: How many nodes its main graph has.
        resources: Whether it keeps resource variables between runs, which only a new interpreter sets back.
        stateful: Whether it keeps anything between runs: resource variables, or variable tensors as an LSTM has them.
    """

    signatures: tuple[Signature, ...]
    custom_ops: tuple[str, ...]
    nodes: int
    resources: bool
    stateful: bool

    @property
    def primary(self) -> Signature | None:
        """The signature ``serving_default``, else the first one."""
        named = (s for s in self.signatures if s.key == "serving_default")
        return next(named, self.signatures[0] if self.signatures else None)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the signatures."""
        return tuple(signature.key for signature in self.signatures)

    def choose(self, key: str | None) -> Signature | None:
        """Return the signature of that name; None takes the primary one.

        Raises:
            UnknownNameError: If there is no such signature.
        """
        if key is None:
            return self.primary
        found = {signature.key: signature for signature in self.signatures}
        if key not in found:
            raise UnknownNameError("--signature", key, found or ["none: the file has no signature"])
        return found[key]


def verify_tflite(data: Buffer) -> None:
    """Prove that a file's offsets, lengths and indices stay inside what they point into, and that its graphs can be.

    It does not prove that an engine can run the file: a flipped bit in a weight or an option is still data.

    Raises:
        FlatbufferError: At the first that does not.
    """
    verify(data, _layouts(), "Model")
    check_graphs(Table.root(data))


@functools.cache
def _layouts() -> Layouts:
    return parse_layouts(SCHEMA)


def read_tflite(data: Buffer) -> TfliteFile:
    """Read a verified file."""
    model = Table.root(data)
    names = (code.text(1) for code in model.tables(1))
    resources = any(max(code.u8(0), code.u32(3)) == VAR_HANDLE for code in model.tables(1))
    variables = any(tensor.u8(5) for subgraph in model.tables(2) for tensor in subgraph.tables(0))
    return TfliteFile(
        signatures=tuple(
            Signature(s.text(2), s.u32(4), _tensor_map(s.tables(0)), _tensor_map(s.tables(1))) for s in model.tables(7)
        ),
        custom_ops=tuple(name for name in names if name),
        nodes=len(model.tables(2)[0].tables(3)),
        resources=resources,
        stateful=resources or variables,
    )


def _tensor_map(entries: Iterable[Table]) -> dict[str, int]:
    return {entry.text(0): entry.u32(1) for entry in entries}
