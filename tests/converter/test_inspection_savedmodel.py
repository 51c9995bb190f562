"""SavedModels, read from the bytes of their graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeferry_converter.inspection import inspect
from edgeferry_converter.inspection.savedmodel_file import Message
from edgeferry_runtime.errors import CorruptFileError, EdgeferryError

FLOAT, INT, RESOURCE = 1, 3, 20


def field(number: int, content: bytes | str | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def shape(*sizes: int) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


def entry(key: str, value: bytes) -> bytes:
    return field(1, key) + field(2, value)


def node(name: str, operator: str, *inputs: str, **attributes: bytes) -> bytes:
    given = b"".join(field(3, text) for text in inputs) + b"".join(field(5, entry(k, v)) for k, v in attributes.items())
    return field(1, name) + field(2, operator) + given


def made(*sizes: int, kind: int = FLOAT) -> dict[str, bytes]:
    return {"T": field(6, kind), "_output_shapes": field(1, field(7, shape(*sizes)))}


def variable(name: str, *sizes: int) -> bytes:
    kind = {"dtype": field(6, FLOAT), "shape": field(7, shape(*sizes)), "shared_name": field(2, name)}
    return node(name, "VarHandleOp", **kind)


def function(name: str, inputs: list[str], nodes: list[bytes], outputs: dict[str, str]) -> bytes:
    arguments = b"".join(field(2, field(1, key)) for key in inputs) + b"".join(field(3, field(1, k)) for k in outputs)
    returned = b"".join(field(4, field(1, key) + field(2, value)) for key, value in outputs.items())
    return field(1, field(1, name) + arguments) + b"".join(field(3, one) for one in nodes) + returned


def call(name: str) -> bytes:
    return field(10, field(1, name))


def tensor(name: str, *sizes: int) -> bytes:
    return field(1, name) + field(2, FLOAT) + field(3, shape(*sizes))


def signature(inputs: dict[str, bytes], outputs: dict[str, bytes]) -> bytes:
    sides = ((1, inputs), (2, outputs))
    return b"".join(field(number, entry(key, value)) for number, side in sides for key, value in side.items())


def saved(folder: Path, nodes: list[bytes], functions: list[bytes] = (), **signatures: bytes) -> Path:  # type: ignore[assignment]
    graph = b"".join(field(1, one) for one in nodes) + field(2, b"".join(field(1, one) for one in functions))
    about = field(4, "serve") + field(5, "2.21.0")
    content = field(1, about) + field(2, graph) + b"".join(field(5, entry(k, v)) for k, v in signatures.items())
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(field(1, 1) + field(2, content))
    return folder


PLACE = node("x", "Placeholder", dtype=field(6, FLOAT), _output_shapes=field(1, field(7, shape(-1, 8, 8, 3))))
BODY = function(
    "body",
    ["image", "kernel"],
    [
        node("again", "Identity", "conv:output:0", **made(-1, 8, 8, 4)),
        node("conv", "Conv2D", "image", "read:value:0", **made(-1, 8, 8, 4)),
        node("read", "ReadVariableOp", "kernel", dtype=field(6, FLOAT)),
        node("unused", "Softmax", "image", **made(-1, 8, 8, 3)),
    ],
    {"answer": "again:output:0"},
)
SIDES = signature({"image": tensor("x:0", -1, 8, 8, 3)}, {"y": tensor("run:0", -1, 8, 8, 4)})


def convolution(folder: Path) -> Path:
    nodes = [
        PLACE,
        variable("kernel", 3, 3, 3, 4),
        node("run", "StatefulPartitionedCall", "x", "kernel", f=call("body")),
    ]
    return saved(folder, nodes, [BODY], serving_default=SIDES, other=SIDES)


def test_what_the_serving_signature_executes_is_shown(tmp_path: Path) -> None:
    found = inspect(convolution(tmp_path / "m"))
    assert [(layer.operator, layer.parameters, layer.macs) for layer in found.layers] == [
        ("Conv2D", 108, 8 * 8 * 108 * 4 // 4)
    ]
    assert [(s.name, s.shape, s.dtype) for s in (*found.inputs, *found.outputs)] == [
        ("image", (-1, 8, 8, 3), "float32"), ("y", (-1, 8, 8, 4), "float32"),
    ]  # fmt: skip
    assert (found.format, found.metadata["TensorFlow"]) == ("savedmodel", "2.21.0")
    assert found.notes == ("shown is the signature 'serving_default'; it also has other",)


def test_a_body_of_a_loop_counts_once_and_what_it_carries_is_no_constant(tmp_path: Path) -> None:
    zero = node("zero", "Const", dtype=field(6, FLOAT), value=field(8, field(1, FLOAT) + field(2, shape(2, 2))))
    loop = node("loop", "While", "zero", "w", "x", cond=call("goes_on"), body=call("turns"), **made(2, 2))
    goes_on = function(
        "goes_on", ["state", "w", "x"], [node("less", "Less", "state", "state", **made())], {"b": "less:z:0"}
    )
    turns = function(
        "turns",
        ["state", "w", "x"],
        [node("read", "ReadVariableOp", "w"), node("product", "MatMul", "state", "read:value:0", **made(2, 2))],
        {"next": "product:product:0", "same": "w", "x": "x"},
    )
    sides = signature({}, {"y": tensor("loop:0", 2, 2)})
    found = inspect(
        saved(tmp_path / "m", [PLACE, zero, variable("w", 2, 2), loop], [goes_on, turns], serving_default=sides)
    )
    assert [layer.operator for layer in found.layers] == ["Less", "MatMul", "While"]
    assert (found.parameters, found.macs) == (4 + 4, 8), "the matrix, and the state that the loop begins with"
    assert any("each body counts once" in note for note in found.notes)


def test_operators_that_are_not_tensorflows_own_stand_apart(tmp_path: Path) -> None:
    nodes = [PLACE, node("a", "Addons>Blur", "x", **made(1, 2)), node("run", "PyFunc", "a", **made(1, 2))]
    assert inspect(saved(tmp_path / "m", nodes, serving_default=SIDES)).custom == ("Addons>Blur", "PyFunc")


def test_what_the_file_does_not_tell_is_said(tmp_path: Path) -> None:
    nodes = [PLACE, variable("w", 3, 4), node("run", "Einsum", "x", "w", **made(-1, 4))]
    found = inspect(saved(tmp_path / "m", nodes, serving_default=SIDES))
    assert found.macs is None
    assert any("MACs of some layers cannot be told" in note for note in found.notes)
    assert any("no signature" in note for note in inspect(saved(tmp_path / "n", nodes)).notes)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_half_a_file_is_refused(tmp_path: Path, keep: float) -> None:
    file = convolution(tmp_path / "m") / "saved_model.pb"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CorruptFileError, match=r"its saved_model\.pb is truncated or damaged"):
        inspect(tmp_path / "m")


@pytest.mark.slow
def test_any_changed_byte_ends_in_a_report_or_in_our_error(tmp_path: Path) -> None:
    file = convolution(tmp_path / "m") / "saved_model.pb"
    content = file.read_bytes()
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            inspect(tmp_path / "m")
        except EdgeferryError as error:
            assert "damaged" in str(error)


def test_functions_that_call_themselves_end(tmp_path: Path) -> None:
    again = [node(name, "PartitionedCall", "x", f=call("f")) for name in ("a", "b")]
    forged = function("f", ["x"], [*again, node("sum", "Add", "a", "b")], {"y": "sum:z:0"})
    sides = signature({}, {"y": tensor("run:0")})
    nodes = [PLACE, node("run", "PartitionedCall", "x", f=call("f"))]
    with pytest.raises(CorruptFileError, match="call each other more than"):
        inspect(saved(tmp_path / "m", nodes, [forged], serving_default=sides))
    loop = [node("run", "Add", "other"), node("other", "Add", "run")]
    with pytest.raises(CorruptFileError, match="damaged"):
        inspect(saved(tmp_path / "n", loop, serving_default=sides))


def test_numbers_may_be_negative_and_absent() -> None:
    assert [Message.read(field(1, value)).number(1) for value in (0, 7, -1)] == [0, 7, -1]
    assert Message.read(b"").number(1) == 0


@pytest.mark.slow
def test_a_savedmodel_of_keras_has_the_figures_of_its_keras_file(savedmodel: Path, keras_cnn: Path) -> None:
    found, keras = inspect(savedmodel), inspect(keras_cnn)
    assert found.macs == keras.macs
    assert [s.shape for s in (*found.inputs, *found.outputs)] == [s.shape for s in (*keras.inputs, *keras.outputs)]
    sizes = [sorted(x.parameters for x in f.layers if x.macs) for f in (found, keras)]
    assert sizes[0] == [72, 72, 160, 2048], "without biases, which are operators of their own"
    assert [s - b for s, b in zip(sizes[1], (8, 8, 10, 16), strict=True)] == sizes[0]


@pytest.mark.zoo
def test_the_keyword_spotter_is_read_without_a_framework(zoo: Path) -> None:
    path = next(zoo.rglob("saved_model.pb")).parent
    code = "import sys; from edgeferry_converter.inspection import inspect; found = inspect(sys.argv[1])"
    code += "\nprint(found.macs, found.parameters, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    macs, parameters, *modules = done.stdout.split()
    assert (int(macs), int(parameters)) == (2_656_768, 24_908)
    assert {"tensorflow", "keras", "google.protobuf", "torch"}.isdisjoint(modules)
