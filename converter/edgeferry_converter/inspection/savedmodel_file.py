"""A ``saved_model.pb`` as a few dataclasses, read from its bytes without TensorFlow.

Source: saved_model.proto, meta_graph.proto, graph.proto, node_def.proto, attr_value.proto and function.proto of
TensorFlow 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgeferry_runtime.protobuf import BYTES, VARINT, WireError, fields, varint

DTYPES: Mapping[int, str] = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64",
    10: "bool", 11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16",
    20: "resource", 21: "variant", 22: "uint32", 23: "uint64", 29: "int4", 30: "uint4",
}  # fmt: skip
"""By number of TensorFlow's ``DataType``."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Message:
    """The fields of one message: by number, whole numbers and the bytes of what has a length."""

    parts: Mapping[int, list[int | bytes]]

    @classmethod
    def read(cls, data: bytes) -> Message:
        """Read one message, none of those inside it.

        Raises:
            WireError: If it is not well-formed.
        """
        found: dict[int, list[int | bytes]] = {}
        for number, wire, start, end in fields(data, 0, len(data)):
            if wire == BYTES:
                found.setdefault(number, []).append(data[start:end])
            elif wire == VARINT:
                found.setdefault(number, []).append(varint(data, start, end)[0])
        return cls(found)

    def messages(self, *path: int) -> Iterator[Message]:
        """Yield the messages that a path of field numbers leads to."""
        for part in self.parts.get(path[0], ()):
            if isinstance(part, int):
                raise WireError(f"field {path[0]} is a number where a message belongs")
            inner = Message.read(part)
            yield from inner.messages(*path[1:]) if path[1:] else (inner,)

    def one(self, number: int) -> Message | None:
        """Return the last message of a field, as protobuf does."""
        return next(reversed(list(self.messages(number))), None)

    def texts(self, number: int) -> list[str]:
        """Return the texts of a field."""
        return [part.decode(errors="replace") for part in self.parts.get(number, ()) if isinstance(part, bytes)]

    def text(self, number: int) -> str:
        """Return the text of a field; empty where it is absent."""
        return next(reversed(self.texts(number)), "")

    def number(self, number: int) -> int:
        """Return the number of a field, which may be negative; 0 where it is absent."""
        found = [part for part in self.parts.get(number, ()) if isinstance(part, int)]
        return found[-1] - (1 << 64 if found[-1] >> 63 else 0) if found else 0

    def table(self, number: int) -> dict[str, Message]:
        """Return a map from texts to messages."""
        return {entry.text(1): entry.one(2) or Message({}) for entry in self.messages(number)}


@dataclass(frozen=True)
class Tensor:
    """What a signature says of an input or output, and which tensor of the graph it is."""

    tensor: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True)
class SavedNode:
    """A node: its attributes stay messages, since few of them matter."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Message] = field(default_factory=dict)

    def dtype(self, *names: str) -> str:
        """Return the type that the first of these attributes holds."""
        number = next((self.attributes[name].number(6) for name in names if name in self.attributes), 0)
        return DTYPES.get(number % 100, "")

    def shapes(self) -> list[Shape | None]:
        """Return the shapes of the outputs, as far as the file keeps them."""
        kept = self.attributes.get("_output_shapes")
        return [read_shape(part) for part in kept.messages(1, 7)] if kept else []

    def shape(self, name: str) -> Shape | None:
        """Return the shape that an attribute is, or that its tensor has."""
        kept = self.attributes.get(name, Message({}))
        tensor = kept.one(8)
        return read_shape(tensor.one(2) or Message({}) if tensor else kept.one(7))

    def function(self, name: str) -> str:
        """Return the name of the function that an attribute is."""
        called = self.attributes.get(name, Message({})).one(10)
        return called.text(1) if called else ""

    def functions(self) -> Iterator[str]:
        """Yield the names of the functions that it calls, such as a loop's condition and body."""
        for name, attribute in self.attributes.items():
            if not name.startswith("_"):
                yield from (part.text(1) for part in (*attribute.messages(10), *attribute.messages(1, 9)))


@dataclass(frozen=True)
class Function:
    """A function of the graph's library."""

    inputs: tuple[str, ...]
    nodes: tuple[SavedNode, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class SavedModel:
    """The graph of a SavedModel, and its signatures: by key, inputs and outputs by name."""

    version: str
    tags: tuple[str, ...]
    nodes: tuple[SavedNode, ...]
    functions: Mapping[str, Function]
    signatures: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]


def read_savedmodel(data: bytes) -> SavedModel:
    """Read the first graph of a file, which is the only one that TensorFlow 2 writes.

    Raises:
        WireError: If it is damaged, or holds no graph.
    """
    graph = next(Message.read(data).messages(2), None)
    if graph is None:
        raise WireError("it holds no graph")
    about, definition = graph.one(1) or Message({}), graph.one(2) or Message({})
    signatures = {key: (_tensors(value, 1), _tensors(value, 2)) for key, value in graph.table(5).items()}
    return SavedModel(
        version=about.text(5),
        tags=tuple(about.texts(4)),
        nodes=tuple(map(_node, definition.messages(1))),
        functions=dict(map(_function, definition.messages(2, 1))),
        signatures={key: sides for key, sides in signatures.items() if sides[1]},
    )


def read_shape(message: Message | None) -> Shape | None:
    """Read a ``TensorShapeProto``: -1 where a dimension is open, None where the rank is unknown."""
    if message is None or message.number(3):
        return None
    return tuple(dim.number(1) for dim in message.messages(2))


def _tensors(signature: Message, number: int) -> dict[str, Tensor]:
    found = signature.table(number)
    return {
        name: Tensor(info.text(1), DTYPES.get(info.number(2), ""), read_shape(info.one(3)))
        for name, info in sorted(found.items())
    }


def _node(message: Message) -> SavedNode:
    inputs = tuple(name for name in message.texts(3) if not name.startswith("^"))
    return SavedNode(message.text(1), message.text(2), inputs, message.table(5))


def _function(message: Message) -> tuple[str, Function]:
    signature = message.one(1) or Message({})
    returned = {entry.text(1): entry.text(2) for entry in message.messages(4)}
    inputs, outputs = ([arg.text(1) for arg in signature.messages(number)] for number in (2, 3))
    nodes = tuple(map(_node, message.messages(3)))
    return signature.text(1), Function(tuple(inputs), nodes, tuple(returned.get(name, name) for name in outputs))
