"""Pictures, arrays, labels, metadata and bundles that lie: one clear error, and no more memory than they are worth."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.arrays import ArrayFileError, load_array, load_arrays
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, content_id, write_bundle
from edgeferry_runtime.errors import BundleError, DataError, EdgeferryError
from edgeferry_runtime.labels import archive_labels
from edgeferry_runtime.preprocess import UNSCALED, Preprocess, read_image
from edgeferry_runtime.tensors import TensorSpec

SEEDS = 150


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """No test of this file takes 2 GB on top of what the process has already."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    yield
    assert resident("VmHWM") - before < 2 << 20


def resident(key: str) -> int:
    """Return this process's resident memory now, or at most since the mark was cleared, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def damage(data: bytes, dice: random.Random, begin: int = 0) -> bytes:
    """Overwrite some bytes, and cut now and then."""
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        reach = dice.choice((60, 400, len(data)))
        damaged[dice.randrange(begin, min(len(data), begin + reach))] = dice.choice((0, 127, 255, dice.randrange(256)))
    return bytes(damaged[: dice.randrange(begin, len(data))] if dice.random() < 0.2 else damaged)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
def test_damaged_pictures(form: str) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    stream, dice = io.BytesIO(), random.Random(form)
    image.fromarray(pixels).save(stream, form)
    for _ in range(SEEDS):
        try:
            read_image(damage(stream.getvalue(), dice), Preprocess(resize=(4, 4)))
        except DataError as error:
            assert "\n" not in error.reason


def png(width: int, height: int, content: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that says how large it is, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    text = chunk(b"zTXt", extra) if extra else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, zlib.compress(bytes(1000))),
        png(0, 5),
        png(4, 4, zlib.compress(bytes(3))),
        png(4, 4, zlib.compress(bytes(52)), b"k\0\0" + zlib.compress(bytes(100_000_000))),
        b"GIF89a" + bytes(100),
        b"hello",
        b"",
    ],
    ids=["bomb", "no pixels", "too short", "text bomb", "other format", "text", "empty"],
)
def test_pictures_that_lie(data: bytes) -> None:
    pytest.importorskip("PIL")
    with pytest.raises(DataError):
        read_image(data, Preprocess(resize=(4, 4)))


def test_a_large_picture_must_be_resized() -> None:
    pytest.importorskip("PIL")
    side = int(UNSCALED**0.5) + 1
    with pytest.raises(DataError, match="give a smaller picture"):
        read_image(png(side, side, zlib.compress(bytes(9))), Preprocess())


def npy(shape: str = "(1, 4)", descr: str = "'<f4'", content: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "data",
    [
        npy(shape="(10**12,)"),
        npy(shape="(1000000000000,)"),
        npy(shape="(-1, 4)"),
        npy(shape="(4294967296, 4294967296, 16)"),
        npy(shape="(0, 99999999999999999999)"),
        npy(shape="(" + "1," * 100 + ")"),
        npy(shape="True"),
        npy(descr="'|O'", content=b"\x80\x04N."),
        npy(descr="[('a', '<f4')]"),
        npy(descr="'|V9999999999'"),
        npy(content=bytes(15)),
        npy(descr="__import__('os').system('true')"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x93NUMPY\x03\x00\x02\x00\x00\x00{}",
        b"",
    ],
)
def test_arrays_that_lie(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ArrayFileError):
        load_array(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ArrayFileError):
        load_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("values", [np.arange(6).reshape(2, 3), np.float32(3), np.zeros((0, 4)), np.array(["a", "bc"])])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_wrote_is_read(tmp_path: Path, values: Any, order: str) -> None:
    given = np.asarray(values, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", given)
    np.savez_compressed(tmp_path / "x.npz", **{"a": given, "b/c": given})
    for found in (load_array(tmp_path / "x.npy"), *load_arrays(tmp_path / "x.npz").values()):
        np.testing.assert_array_equal(found, given)
        assert found.dtype == given.dtype
        assert found.flags.writeable


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives(tmp_path: Path, method: int) -> None:
    dice = random.Random(method)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x.npy", npy(content=bytes(range(16))))
    for _ in range(SEEDS):
        (tmp_path / "x.npz").write_bytes(damage(stream.getvalue(), dice))
        try:
            load_arrays(tmp_path / "x.npz")
        except ArrayFileError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ({"labels.txt": b"ant\nbee\n"}, ("ant", "bee")),
        ({"../../labels.txt": b"ant\n"}, ("ant",)),
        ({"labels.txt": bytes(range(256))}, ()),
        ({"labels.txt": bytes(1 << 26)}, ()),
        ({"labels.txt": b"a", "more labels.txt": b"b"}, ()),
    ],
    ids=["sound", "escape", "binary", "bomb", "two"],
)
def test_metadata_archives(tmp_path: Path, entries: dict[str, bytes], found: tuple[str, ...]) -> None:
    """Nothing is ever unpacked into a folder, so that no entry can escape one."""
    path = tmp_path / "inner" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert archive_labels(path) == found
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_metadata_archives(tmp_path: Path, method: int) -> None:
    stream, dice = io.BytesIO(bytes(64)), random.Random(method)
    with zipfile.ZipFile(stream, "a", method) as archive:
        archive.writestr("labels.txt", "ant\nbee\n" * 30)
    for _ in range(SEEDS):
        (tmp_path / "model.tflite").write_bytes(damage(stream.getvalue(), dice, begin=64))
        archive_labels(tmp_path / "model.tflite")


SPEC = TensorSpec("x", (1, 4), "float32")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that is sound as far as anybody looks who does not load it."""
    manifest = Manifest("tiny", "model.onnx", "onnx", "none", (SPEC,), (SPEC,), {"name": "tiny"})

    def fill(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"model")
        (folder / "labels.txt").write_text("ant\nbee\n")
        Probe({"x": np.zeros((1, 1, 4), np.float32)}, {}).save(folder / "probe.npz")

    write_bundle(tmp_path / "bundle", manifest, fill)
    return tmp_path / "bundle"


def read(folder: Path) -> tuple[str, ...]:
    """Read all of a bundle but its artifact."""
    found = Bundle.open(folder)
    found.check()
    found.probe()
    return found.labels


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and give it the id that it then should have, as an attacker would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps({**data, "id": content_id(data)}))


CHANGES: dict[str, dict[str, Any]] = {
    "escape": {"files": {"../model.onnx": "0" * 64}},
    "absolute": {"files": {"/etc/passwd": "0" * 64}},
    "long name": {"files": {"x" * 5000: "0" * 64}},
    "nul": {"files": {"a\0b": "0" * 64}},
    "no file": {"artifact": {"file": ".", "format": "onnx", "precision": "none"}},
    "number for a list": {"inputs": 5},
    "text for a tensor": {"inputs": ["x"]},
    "number for a name": {"inputs": [{"name": 5, "shape": [1], "dtype": "float32"}]},
    "text for a dimension": {"inputs": [{"name": "x", "shape": ["1"], "dtype": "float32"}]},
    "huge dimension": {"inputs": [{"name": "x", "shape": [1 << 70], "dtype": "float32"}]},
    "list for a dtype": {"inputs": [{"name": "x", "shape": [1], "dtype": []}]},
    "quantization": {"inputs": [{**SPEC.to_dict(), "quantization": {"scale": [0.0], "zero_point": [0], "axis": None}}]},
    "axis": {"inputs": [{**SPEC.to_dict(), "quantization": {"scale": [1.0] * 2, "zero_point": [0] * 2, "axis": 9}}]},
    "preprocess": {"preprocess": {"resize": ["a", "b"]}},
    "tolerance": {"tolerance": {"unknown": 1}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_manifests_that_lie(bundle: Path, change: dict[str, Any]) -> None:
    forge(bundle, lambda data: data.update(change))
    with pytest.raises(BundleError):
        read(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        bytes(range(256)),
        b"[" * 100_000,
        b'{"format": "edgeferry-bundle", "schema": ' + b"9" * 6000 + b"}",
        b'{"format": "edgeferry-bundle", "schema": 1, "name": "\\ud800"}',
        b'{"a": "' + b"x" * (1 << 25) + b'"}',
    ],
    ids=["empty", "list", "null", "binary", "deep", "digits", "surrogate", "large"],
)
def test_manifests_that_are_none(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError):
        read(bundle)


@pytest.mark.parametrize(
    ("content", "said"), [(bytes(range(256)), "is no text in UTF-8"), (b"x" * 100_000_000, "more than 4 MiB of labels")]
)
def test_labels_that_are_none(bundle: Path, content: bytes, said: str) -> None:
    (bundle / "labels.txt").write_bytes(content)
    forge(bundle, lambda data: data["files"].update({"labels.txt": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(BundleError, match=said):
        read(bundle)


def test_files_that_are_none(bundle: Path) -> None:
    assert read(bundle) == ("ant", "bee")
    for name, target in (("labels.txt", "/dev/zero"), ("model.onnx", "/"), ("probe.npz", "/etc/hostname")):
        other = shutil.copytree(bundle, bundle.with_name(name))
        (other / name).unlink()
        (other / name).symlink_to(target)
        with pytest.raises(EdgeferryError):
            read(other)


def test_a_recomputed_bundle_does_not_reach_the_process_that_asked(
    bundle: Path, ferry: Callable[..., tuple[int, str]]
) -> None:
    """Hashes show that nothing was changed, and not who made it: an engine sees it in a child alone."""
    kept = Path(__file__).with_name("kept") / "input_beyond_64_bits.onnx"
    (bundle / "model.onnx").write_bytes(kept.read_bytes())
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    forge(bundle, lambda data: data["files"].update({"model.onnx": digest}))
    code, said = ferry("run", bundle)
    assert code == 1, said
    assert said.splitlines()[-1].startswith("ferry: error: ")
