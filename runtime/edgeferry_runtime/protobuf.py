"""The wire format of protobuf: fields with their numbers and spans, without the protobuf package.

Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeferry_runtime.flatbuffer import Buffer

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """A tag, a length or a number that cannot be right."""


def fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type and the span of the content of each field of a message.

    Args:
        data: The whole file.
        at: The first byte of the message.
        end: The first byte behind it.

    Raises:
        WireError: At the first field that is not well-formed.
    """
    while at < end:
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == BYTES:
            size, at = varint(data, at, end)
        elif wire == VARINT:
            size = varint(data, at, end)[1] - at
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"byte {at} holds the unknown wire type {wire}")
        if number == 0 or at + size > end:
            raise WireError(f"a field of {size} bytes at byte {at} leads beyond byte {end}")
        yield number, wire, at, at + size
        at += size


def varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return a base-128 number and the position behind it.

    Raises:
        WireError: If it does not end.
    """
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise WireError(f"the number before byte {at} does not end")
