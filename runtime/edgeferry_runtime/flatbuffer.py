"""A flatbuffer verifier and reader that is driven by a table of layouts.

A native reader trusts every offset in the file. So before one sees an untrusted file, `verify` follows every
offset that the layouts know and proves that it stays inside the file.

Source: FlatBuffers internals, "Encoding" (https://flatbuffers.dev/internals/).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

I32, U16, U32, U64 = (struct.Struct(code).unpack_from for code in ("<i", "<H", "<I", "<Q"))


Buffer: TypeAlias = "bytes | mmap.mmap"
"""The bytes of a file."""


def map_file(path: Path) -> mmap.mmap:
    """Map a file that is not empty, so that only what is looked at is read."""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


class FlatbufferError(ValueError):
    """An offset, a length or a string that cannot be right."""


@dataclass(frozen=True)
class Field:
    """One slot of a table.

    Attributes:
        size: Bytes that it takes inside the table.
        element: Bytes of a vector's element; 0 where it is no vector.
        target: The table or union that it, or its elements, point to; ``s`` for strings.
        union: Whether `target` is a union, whose member the slot before it names.
    """

    size: int
    element: int = 0
    target: str = ""
    union: bool = False


Layouts = Mapping[str, tuple[Field, ...]]


def parse_layouts(schema: Mapping[str, str]) -> Layouts:
    """Read layouts written as one word per slot, in the order of the slots.

    Args:
        schema: By table, its words: ``1 2 4 8`` a scalar of so many bytes, ``s`` a string, ``Name`` a table,
            ``[x`` a vector of x, ``Name?`` a union. The members of a union are tables ``Name.TAG``.
    """
    return {name: tuple(_field(word) for word in words.split()) for name, words in schema.items()}


def _field(word: str) -> Field:
    if word.isdigit():
        return Field(int(word))
    kind = word.removeprefix("[")
    if kind.isdigit():
        return Field(4, int(kind))
    return Field(4, 4 if word[0] == "[" else 0, kind.removesuffix("?"), kind.endswith("?"))


def verify(data: Buffer, layouts: Layouts, root: str) -> None:
    """Prove that every offset reachable from the root table stays inside `data`.

    Args:
        data: The whole file.
        layouts: What `parse_layouts` gave.
        root: The name of the root table.

    Raises:
        FlatbufferError: At the first that does not.
    """
    verifier = _Verifier(data, layouts)
    verifier.span(0, 8)
    verifier.table(U32(data, 0)[0], root)


class _Verifier:
    """One walk over one file. Tables seen before are not walked again, so the work is linear in the file."""

    def __init__(self, data: Buffer, layouts: Layouts) -> None:
        self._data = data
        self._size = len(data)
        self._layouts = layouts
        self._seen: set[tuple[int, str]] = set()

    def span(self, start: int, size: int, align: int = 1) -> None:
        if start < 0 or start + size > self._size:
            raise FlatbufferError(f"an offset leads to byte {start + size} of {self._size}")
        if start % align:
            raise FlatbufferError(f"an offset leads to the odd byte {start}")

    def table(self, at: int, name: str) -> None:
        if (at, name) in self._seen:
            return
        self._seen.add((at, name))
        self.span(at, 4, 4)
        vtable = at - I32(self._data, at)[0]
        self.span(vtable, 4, 2)
        width, size = U16(self._data, vtable)[0], U16(self._data, vtable + 2)[0]
        if width < 4 or width % 2 or size < 4:
            raise FlatbufferError(f"the {name} table at byte {at} has an impossible layout")
        self.span(vtable, width)
        self.span(at, size)
        slots = struct.unpack_from(f"<{width // 2 - 2}H", self._data, vtable + 4)
        tag = 0
        for slot, field in zip(slots, self._layouts.get(name, ()), strict=False):
            if slot and (slot < 4 or slot + field.size > size):
                raise FlatbufferError(f"the {name} table at byte {at} has a field beyond its end")
            if slot and (field.element or field.target):
                self._follow(at + slot, field, tag)
            tag = self._data[at + slot] if slot and field.size == 1 else 0

    def _follow(self, at: int, field: Field, tag: int) -> None:
        to = at + U32(self._data, at)[0]
        if field.union:
            self.table(to, f"{field.target}.{tag}")
        elif field.element:
            self._vector(to, field)
        else:
            self._item(to, field.target)

    def _item(self, at: int, target: str) -> None:
        if target == "s":
            self._string(at)
        else:
            self.table(at, target)

    def _vector(self, at: int, field: Field) -> None:
        self.span(at, 4, 4)
        count = U32(self._data, at)[0]
        self.span(at + 4, count * field.element)
        if field.target:
            for place in range(at + 4, at + 4 + 4 * count, 4):
                self._item(place + U32(self._data, place)[0], field.target)

    def _string(self, at: int) -> None:
        self.span(at, 4, 4)
        length = U32(self._data, at)[0]
        self.span(at + 4, length + 1)
        text = self._data[at + 4 : at + 5 + length]
        if text[-1]:
            raise FlatbufferError(f"the string at byte {at} does not end")
        try:
            text.decode()
        except UnicodeDecodeError:
            raise FlatbufferError(f"the string at byte {at} is no UTF-8") from None


@dataclass(frozen=True)
class Table:
    """One table of a verified file; a slot that is absent reads as 0, "" or empty."""

    data: Buffer
    at: int

    @classmethod
    def root(cls, data: Buffer) -> Table:
        """Return the root table."""
        return cls(data, U32(data, 0)[0])

    def _place(self, slot: int) -> int:
        vtable = self.at - I32(self.data, self.at)[0]
        entry = 4 + 2 * slot
        offset = U16(self.data, vtable + entry)[0] if entry < U16(self.data, vtable)[0] else 0
        return self.at + offset if offset else 0

    def _target(self, slot: int) -> int:
        place = self._place(slot)
        return place + U32(self.data, place)[0] if place else 0

    def u8(self, slot: int) -> int:
        """Read a 1-byte unsigned scalar."""
        place = self._place(slot)
        return self.data[place] if place else 0

    def u32(self, slot: int) -> int:
        """Read a 4-byte unsigned scalar."""
        place = self._place(slot)
        return int(U32(self.data, place)[0]) if place else 0

    def u64(self, slot: int) -> int:
        """Read an 8-byte unsigned scalar."""
        place = self._place(slot)
        return int(U64(self.data, place)[0]) if place else 0

    def text(self, slot: int) -> str:
        """Read a string."""
        at = self._target(slot)
        return self.data[at + 4 : at + 4 + U32(self.data, at)[0]].decode() if at else ""

    def raw(self, slot: int) -> bytes:
        """Read a vector of bytes."""
        at = self._target(slot)
        return self.data[at + 4 : at + 4 + U32(self.data, at)[0]] if at else b""

    def length(self, slot: int) -> int:
        """Count the elements of a vector."""
        at = self._target(slot)
        return int(U32(self.data, at)[0]) if at else 0

    def ints(self, slot: int) -> tuple[int, ...]:
        """Read a vector of 4-byte signed integers."""
        at = self._target(slot)
        return struct.unpack_from(f"<{U32(self.data, at)[0]}i", self.data, at + 4) if at else ()

    def table(self, slot: int) -> Table | None:
        """Read one table; None where it is absent."""
        at = self._target(slot)
        return Table(self.data, at) if at else None

    def tables(self, slot: int) -> list[Table]:
        """Read a vector of tables."""
        at = self._target(slot)
        places = range(at + 4, at + 4 + 4 * U32(self.data, at)[0], 4) if at else ()
        return [Table(self.data, place + U32(self.data, place)[0]) for place in places]
