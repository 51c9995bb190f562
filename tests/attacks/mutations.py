"""Seeded ways to damage a model file. The same file, kind and seed always give the same bytes.

Of any file: cut it, flip bits, splat bytes, move a block. Of a TFLite file: make up to four of its numbers lie, of a
kind that the schema knows. Of an ONNX file: make the wire format lie, or the graph that it carries (`onnx_lies`).
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable, Mapping, Sequence

from onnx_lies import LIES
from places import Place, WirePlace, encode_varint, onnx_places, tflite_places

Mutate = Callable[[bytes, random.Random], bytes]
Value = Callable[[Place, int, random.Random], int]
"""From a place, the number that stands there and the dice: the number that is to stand there."""

EVIL = (0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
WIDE = (*EVIL, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, -1.0, 1e-45, 1e-30, 3e38)


def mutate(data: bytes, format_name: str, kind: str, seed: int | str) -> bytes:
    """Damage a file.

    Args:
        data: A sound file.
        format_name: ``tflite`` or ``onnx``.
        kind: One of `kinds`.
        seed: Of the generator.

    Returns:
        The damaged file; as it was where the kind finds nothing to damage.
    """
    return kinds(format_name)[kind](data, random.Random(f"{kind} {seed}"))


def kinds(format_name: str) -> Mapping[str, Mutate]:
    """Return every way to damage a file of a format, by name."""
    return {**ANY, **(TFLITE if format_name == "tflite" else ONNX)}


def _truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.choice((dice.randrange(len(data)), len(data) - dice.randrange(1, 65), dice.randrange(64)))]


def _near(data: bytes, dice: random.Random) -> int:
    """Return a position, half of the time near the beginning or the end, where files keep their structure."""
    edge = min(len(data), 4096)
    return dice.choice((dice.randrange(len(data)), dice.randrange(edge), len(data) - 1 - dice.randrange(edge)))


def _flip(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        damaged[_near(data, dice)] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def _splat(data: bytes, dice: random.Random) -> bytes:
    length, at = dice.choice((1, 2, 4, 8, 64)), _near(data, dice)
    content = dice.choice((bytes(length), b"\xff" * length, b"\x7f" * length, dice.randbytes(length)))
    return data[:at] + content + data[at + length :]


def _block(data: bytes, dice: random.Random) -> bytes:
    """Overwrite with, insert or drop a block."""
    length = dice.randrange(1, min(256, len(data)))
    source, target = dice.randrange(len(data) - length), _near(data, dice)
    block = dice.choice((data[source : source + length], data[source : source + length], b""))
    return data[:target] + block + data[target + dice.choice((0, length)) :]


ANY: Mapping[str, Mutate] = {"truncate": _truncate, "flip": _flip, "splat": _splat, "block": _block}

_tflite_places = functools.lru_cache(maxsize=8)(tflite_places)
_onnx_places = functools.lru_cache(maxsize=8)(onnx_places)


def _lie(wanted: Callable[[Place], bool], value: Value) -> Mutate:
    """Return what makes one number lie, and now and then up to four."""

    def apply(data: bytes, dice: random.Random) -> bytes:
        found = [place for place in _tflite_places(data) if wanted(place)]
        damaged = bytearray(data)
        for place in dice.choices(found, k=dice.choice((1, 1, 2, 4))) if found else ():
            now = int.from_bytes(data[place.at : place.at + place.size], "little")
            lie = value(place, now, dice) & ((1 << 8 * place.size) - 1)
            damaged[place.at : place.at + place.size] = lie.to_bytes(place.size, "little")
        return bytes(damaged)

    return apply


def _evil(place: Place, now: int, dice: random.Random) -> int:
    return dice.choice((now + 1, now - 1, now * 2, -1, dice.choice(WIDE), dice.randrange(64)))


def _index(place: Place, now: int, dice: random.Random) -> int:
    """Return an index that is likely to exist and to be the wrong one."""
    return dice.choice((dice.randrange(4), dice.randrange(40), dice.randrange(40), -1, -2, dice.choice(EVIL)))


def _dimension(place: Place, now: int, dice: random.Random) -> int:
    return dice.choice((0, -1, 2, 3, 49, 1 << 10, 1 << 16, 1 << 20, (1 << 31) - 1, -(1 << 31), dice.randrange(1 << 31)))


def _float(place: Place, now: int, dice: random.Random) -> int:
    """Return the bits of a number that no scale, minimum or maximum should be."""
    scale = place.what == "element" and place.slot in (0, 1, 2)
    return int.from_bytes(struct.pack("<f", dice.choice(FLOATS)), "little") if scale else _evil(place, now, dice)


def _elsewhere(data: bytes, dice: random.Random) -> bytes:
    """Let an offset lead to another table or vector, or to nowhere."""
    known = _tflite_places(data)
    place = dice.choice([place for place in known if place.what == "offset"])
    other = dice.choice([place for place in known if place.what in ("vtable", "length")])
    away = dice.choice((other.at - place.at, other.at - place.at, 0, 4, dice.randrange(len(data)), dice.choice(EVIL)))
    return data[: place.at] + (away & 0xFFFFFFFF).to_bytes(4, "little") + data[place.at + 4 :]


def _at(*wanted: tuple[str, int], what: Sequence[str] = ("scalar", "element", "length")) -> Callable[[Place], bool]:
    return lambda place: (place.table, place.slot) in wanted and place.what in what


def _graphs(place: Place) -> bool:
    """Tell a number that names a subgraph, or a tensor by which one is entered and left."""
    calls = {f"BuiltinOptions.{tag}" for tag in (16, 92, 93, 103)}
    ports = (place.table, place.slot) in {("SubGraph", 1), ("SubGraph", 2), ("TensorMap", 1), ("SignatureDef", 4)}
    return place.what in ("scalar", "element") and (place.table in calls or ports)


TFLITE: Mapping[str, Mutate] = {
    "length": _lie(lambda place: place.what == "length", _evil),
    "offset": _elsewhere,
    "layout": _lie(lambda place: place.what in ("vtable", "slot"), _evil),
    "shape": _lie(_at(("Tensor", 0), ("Tensor", 7)), _dimension),
    "type": _lie(_at(("Tensor", 1), ("Tensor", 5)), lambda place, now, dice: dice.randrange(24)),
    "buffer": _lie(_at(("Tensor", 2), ("Buffer", 1), ("Buffer", 2), ("Metadata", 1)), _index),
    "ports": _lie(_at(("Operator", 1), ("Operator", 2), ("Operator", 8)), _index),
    "operator": _lie(
        _at(("Operator", 0), ("OperatorCode", 0), ("OperatorCode", 3)), lambda place, now, dice: dice.randrange(210)
    ),
    "options": _lie(lambda place: place.table.startswith("Builtin"), _evil),
    "quantization": _lie(lambda place: place.table.startswith("Quantization"), _float),
    "subgraphs": _lie(_graphs, _index),
}


def _wire(what: str) -> Mutate:
    """Return what makes a tag, a length or a number of the wire format lie."""

    def apply(data: bytes, dice: random.Random) -> bytes:
        place = dice.choice([place for place in _onnx_places(data) if place.what == what])
        return data[: place.at] + _wire_lie(data, place, dice) + data[place.end :]

    return apply


def _wire_lie(data: bytes, place: WirePlace, dice: random.Random) -> bytes:
    if place.what == "tag":
        return encode_varint(
            dice.choice((place.field, dice.randrange(30), dice.randrange(1 << 29))) << 3 | dice.randrange(8)
        )
    if dice.randrange(4) == 0:
        return dice.choice((b"\x80" * 11, b"\xff" * 9 + b"\x7f", b"\x80" * (place.end - place.at)))
    return encode_varint(dice.choice((*WIDE, -1, -(1 << 31), dice.randrange(len(data)), dice.randrange(64))))


ONNX: Mapping[str, Mutate] = {"tag": _wire("tag"), "length": _wire("length"), "varint": _wire("varint"), **LIES}
