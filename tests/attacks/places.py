"""Where the numbers of a model file stand, so that a mutation can make a certain one lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edgeferry_runtime.flatbuffer import I32, U16, U32, parse_layouts
from edgeferry_runtime.onnx_wire import MESSAGES
from edgeferry_runtime.protobuf import BYTES, VARINT
from edgeferry_runtime.tflite_schema import SCHEMA

LAYOUTS = parse_layouts(SCHEMA)


class Place(NamedTuple):
    """A number in a TFLite file: `what` is ``scalar``, ``element``, ``length``, ``offset``, ``vtable`` or ``slot``."""

    table: str
    slot: int
    what: str
    at: int
    size: int


def tflite_places(data: bytes) -> list[Place]:
    """Find every number of a sound TFLite file that its schema knows, but for the bytes of buffers."""
    found: dict[tuple[int, str], list[Place]] = {}
    pending = [(U32(data, 0)[0], "Model")]
    while pending:
        at, name = pending.pop()
        if (at, name) not in found:
            found[at, name] = list(_table(data, at, name, pending))
    return sorted({place for places in found.values() for place in places}, key=lambda place: (place.at, place))


def _table(data: bytes, at: int, name: str, pending: list[tuple[int, str]]) -> Iterator[Place]:
    vtable = at - I32(data, at)[0]
    yield Place(name, -1, "vtable", at, 4)
    yield Place(name, -1, "slot", vtable, 2)
    yield Place(name, -1, "slot", vtable + 2, 2)
    tag = 0
    for slot, field in enumerate(LAYOUTS.get(name, ())):
        entry = vtable + 4 + 2 * slot
        offset = U16(data, entry)[0] if entry < vtable + U16(data, vtable)[0] else 0
        if not offset:
            tag = 0
            continue
        place = at + offset
        yield Place(name, slot, "slot", entry, 2)
        if not (field.element or field.target):
            tag = data[place] if field.size == 1 else 0
            yield Place(name, slot, "scalar", place, field.size)
            continue
        yield Place(name, slot, "offset", place, 4)
        to = place + U32(data, place)[0]
        if field.union:
            pending.append((to, f"{field.target}.{tag}"))
        elif field.element:
            yield Place(name, slot, "length", to, 4)
            for position in range(to + 4, to + 4 + field.element * U32(data, to)[0], field.element):
                if field.target:
                    yield Place(name, slot, "offset", position, 4)
                    _point(data, position, field.target, pending)
                elif name != "Buffer":
                    yield Place(name, slot, "element", position, field.element)
        else:
            _point(data, place, field.target, pending)


def _point(data: bytes, at: int, target: str, pending: list[tuple[int, str]]) -> None:
    if target != "s":
        pending.append((at + U32(data, at)[0], target))


class WirePlace(NamedTuple):
    """A number in an ONNX file: `what` is ``tag``, ``length`` or ``varint``; it takes the bytes of ``at:end``."""

    message: str
    field: int
    what: str
    at: int
    end: int


def onnx_places(data: bytes) -> list[WirePlace]:
    """Find the tags, lengths and numbers of the messages of a sound ONNX file."""
    return list(_message(data, (0, len(data)), "Model"))


def _message(data: bytes, span: tuple[int, int], name: str) -> Iterator[WirePlace]:
    at, end = span
    while at < end:
        tag, after = varint(data, at)
        number, wire = tag >> 3, tag & 7
        yield WirePlace(name, number, "tag", at, after)
        at = after
        if wire == BYTES:
            size, after = varint(data, at)
            yield WirePlace(name, number, "length", at, after)
            at = after + size
            inner = MESSAGES.get(name, {}).get(number)
            if inner:
                yield from _message(data, (after, at), inner)
        elif wire == VARINT:
            after = varint(data, at)[1]
            yield WirePlace(name, number, "varint", at, after)
            at = after
        else:
            at += 8 if wire == 1 else 4


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a base-128 number, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def encode_varint(value: int) -> bytes:
    """Write a base-128 number; negative ones take ten bytes, as protobuf has them."""
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
