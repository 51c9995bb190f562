"""The flatbuffer verifier: every file that lies is refused, every sound one is read."""

from __future__ import annotations

import struct
import time

import pytest

from edgeferry_runtime.flatbuffer import FlatbufferError, parse_layouts, verify
from edgeferry_runtime.tflite_file import read_tflite, verify_tflite
from edgeferry_runtime.tflite_schema import SCHEMA


def test_sound_files_pass_and_tell_their_signatures(tiny) -> None:
    data = tiny.tflite_pair()
    verify_tflite(data)
    signature = read_tflite(data).primary
    assert signature is not None
    assert (signature.key, signature.subgraph) == ("serving_default", 0)
    assert signature.inputs == {"a": 1, "b": 0}
    assert signature.outputs == {"gap": 3, "total": 2}


def test_a_file_without_signatures_has_none(tiny) -> None:
    found = read_tflite(tiny.tflite_double())
    assert found.primary is None
    assert found.custom_ops == ()


def test_custom_operators_are_named(tiny) -> None:
    data = tiny.tflite_custom("my-op")
    verify_tflite(data)
    assert read_tflite(data).custom_ops == ("my-op",)


@pytest.mark.parametrize("kind", ["tflite_pair", "tflite_logistic_int8"])
def test_a_file_cut_anywhere_is_refused(tiny, kind: str) -> None:
    """Offsets lead from the front to the back, so a cut always leaves one that leads beyond the end."""
    data = getattr(tiny, kind)()
    sound = []
    for length in range(len(data)):
        try:
            verify_tflite(data[:length])
            sound.append(length)
        except FlatbufferError:
            pass
    assert all(not any(data[length:]) for length in sound), "only padding may be cut off"


@pytest.mark.parametrize("value", [0, 1, 3, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1])
def test_no_word_of_a_file_can_break_the_verifier(tiny, value: int) -> None:
    data = tiny.tflite_pair()
    for at in range(0, len(data) - 3, 4):
        lying = data[:at] + struct.pack("<I", value) + data[at + 4 :]
        try:
            verify_tflite(lying)
        except FlatbufferError:
            continue
        read_tflite(lying)


def table(*fields: int, size: int = 4) -> bytes:
    """A root table at byte 8, whose vtable follows it; every field has 4 bytes and lies at a given offset."""
    width = 4 + 2 * len(fields)
    vtable = struct.pack(f"<HH{len(fields)}H", width, size, *fields)
    return struct.pack("<I4xi", 8, -size) + bytes(size - 4) + vtable


LAYOUT = parse_layouts({"Root": "4 s [Root", "Pair": "1 Kind?", "Kind.2": "s"})


def test_the_table_of_a_test_is_sound() -> None:
    verify(table(), LAYOUT, "Root")
    verify(table(4, size=8), LAYOUT, "Root")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<I4x", 100),
        struct.pack("<I4x", 0xFFFFFFFF),
        struct.pack("<I4xi", 8, 2**31 - 1),
        struct.pack("<I4xi", 8, -(2**31)),
        table(8, size=8),
        table(2, size=8),
        table(0, 4, size=8),
        table(size=4)[:-2],
    ],
    ids=lambda data: f"{len(data)}-bytes",
)
def test_hand_made_lies_are_refused(data: bytes) -> None:
    with pytest.raises(FlatbufferError):
        verify(data[:-1] if data == table(0, 4, size=8) else data, LAYOUT, "Root")


def test_a_vector_that_names_one_table_a_million_times_is_walked_once() -> None:
    """A table may be named often; walking it each time would let a small file take forever."""
    count = 200_000
    head = struct.pack("<I4x", 8) + struct.pack("<iIII", -16, 0, 0, 0)
    vtable = struct.pack("<HHHHH2x", 10, 16, 0, 0, 12)
    start = len(head) + len(vtable)
    places = [start + 4 + 4 * i for i in range(count)]
    leaf = places[-1] + 4
    vector = struct.pack(f"<I{count}I", count, *(leaf - place for place in places))
    data = bytearray(head + vtable + vector + struct.pack("<iHH", -4, 4, 4))
    data[8 + 12 : 8 + 16] = struct.pack("<I", start - 20)
    begin = time.thread_time()
    verify(bytes(data), LAYOUT, "Root")
    assert time.thread_time() - begin < 2


def test_strings_end_and_are_utf8() -> None:
    def string(tail: bytes) -> bytes:
        return struct.pack("<I4xiII", 8, -12, 0, 12) + struct.pack("<HHHH", 8, 12, 0, 8) + tail

    verify(string(struct.pack("<I", 2) + b"ok\0\0"), LAYOUT, "Root")
    for tail in (
        struct.pack("<I", 2) + b"ok!\0",
        struct.pack("<I", 2) + b"\xff\xff\0\0",
        struct.pack("<I", 9) + b"ok\0\0",
    ):
        with pytest.raises(FlatbufferError):
            verify(string(tail), LAYOUT, "Root")


def test_every_table_that_a_layout_names_is_there() -> None:
    layouts = parse_layouts(SCHEMA)
    targets = {f.target for fields in layouts.values() for f in fields if f.target and not f.union}
    assert targets - {"s"} <= set(layouts)


def test_layouts_are_those_of_the_published_schema() -> None:
    """Every field of the generated schema has the slot and the size that the layout says."""
    import re
    from pathlib import Path

    generated = pytest.importorskip("ai_edge_litert.schema_py_generated")
    source = Path(generated.__file__).read_text(encoding="utf-8")
    layouts = parse_layouts(SCHEMA)
    seen = 0
    for name in ("Model", "SubGraph", "Tensor", "Operator", "Buffer", "SignatureDef", "QuantizationParameters"):
        slots = re.findall(rf"^def {name}Add\w+\(.*\n +builder\.Prepend(\w+)Slot\((\d+),", source, re.MULTILINE)
        for kind, slot in slots:
            sizes = {"UOffsetTRelative": 4, "Bool": 1, "Int8": 1, "Uint8": 1, "Int32": 4, "Uint32": 4, "Uint64": 8}
            assert layouts[name][int(slot)].size == sizes[kind], f"{name} slot {slot}"
            seen += 1
    assert seen > 40
