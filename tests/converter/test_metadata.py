"""Labels and preprocessing in the artifact: what is written can be read, and nothing else changes."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.conversion import convert
from edgeferry_converter.inspection import inspect
from edgeferry_converter.metadata import Description, describe
from edgeferry_converter.metadata.flatbuffer import Metadata, Tensor, normalization, read, write
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.flatbuffer import FlatbufferError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.labels import artifact_labels
from edgeferry_runtime.model import load
from edgeferry_runtime.preprocess import Preprocess

MODELS = Path(__file__).parent / "models"
LABELS = tuple(f"dígit {i}" for i in range(10))
GRAY = Preprocess(resize=(8, 8), scale=1 / 127.5, mean=(1.0,), layout="NCHW", color="gray")
FULL = Description("digits", "Handwritten digits.", LABELS, GRAY)


@pytest.fixture(params=["tflite", "onnx"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"m.{request.param}"
    path.write_bytes((MODELS / f"digits.{request.param}").read_bytes())
    return path


def test_the_model_computes_the_same_under_the_same_names(artifact: Path) -> None:
    image = np.load(MODELS / "digits.npz")["image"][:1]
    with load(artifact) as model:
        before, specs = model.run({"image": image}), (model.inputs, model.outputs)
    describe(artifact, FULL)
    assert check_artifact(artifact) == artifact.suffix[1:]
    with load(artifact) as model:
        after = model.run({"image": image})
        assert (model.inputs, model.outputs) == specs
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_the_same_description_gives_the_same_bytes_also_over_an_older_one(artifact: Path) -> None:
    describe(artifact, FULL)
    once = artifact.read_bytes()
    describe(artifact, FULL)
    assert artifact.read_bytes() == once
    artifact.write_bytes((MODELS / f"digits{artifact.suffix}").read_bytes())
    describe(artifact, FULL)
    assert artifact.read_bytes() == once


def test_a_model_about_which_nothing_is_known_stays_as_it_is(artifact: Path) -> None:
    before = artifact.read_bytes()
    describe(artifact, Description("m", "text"))
    assert artifact.read_bytes() == before


def test_tflite_carries_labels_behind_the_flatbuffer_and_says_whose_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((MODELS / "digits.tflite").read_bytes())
    describe(path, FULL)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "\n".join(LABELS) + "\n"
    metadata = _read(path)
    assert (metadata.name, metadata.text) == ("digits", "Handwritten digits.")
    assert [(t.name, t.labels) for t in metadata.outputs] == [("digit", "labels.txt"), ("features", "")]
    assert [(t.name, t.mean, t.std) for t in metadata.inputs] == [("image", (127.5,), (127.5,))]


def test_viewers_that_know_neither_labels_nor_normalization_show_them_as_text(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((MODELS / "digits.tflite").read_bytes())
    describe(path, FULL)
    metadata = _read(path)
    assert [t.text for t in metadata.inputs] == ["(pixel - 127.5) / 127.5, pixels gray of 0 to 255"]
    assert [t.text for t in metadata.outputs] == [f"10 classes: {', '.join(LABELS)}", ""]


def _read(path: Path) -> Metadata:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    found = [e for e in entries if e.Name() == b"TFLITE_METADATA"]
    assert len(found) == 1
    content = bytes(model.Buffers(found[0].Buffer()).DataAsNumpy())
    assert content[4:8] == b"M001"
    return read(content)


def test_onnx_carries_them_as_properties(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "m.onnx"
    path.write_bytes((MODELS / "digits.onnx").read_bytes())
    describe(path, FULL)
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(props["labels"]) == list(LABELS)
    assert Preprocess.from_dict(json.loads(props["preprocessing"])) == GRAY
    assert props["Image.BitmapPixelFormat"] == "Gray8"
    assert props["Image.NominalPixelRange"] == "Normalized_1_1"
    assert props["edgeferry.name"] == "digits"


def test_the_runtime_reads_the_labels_of_a_bare_artifact(artifact: Path) -> None:
    assert artifact_labels(artifact, artifact.suffix[1:]) == ()
    describe(artifact, FULL)
    assert artifact_labels(artifact, artifact.suffix[1:]) == LABELS


@pytest.mark.slow
def test_run_names_the_classes_of_a_bare_artifact(artifact: Path, tmp_path: Path) -> None:
    describe(artifact, FULL)
    np.save(tmp_path / "x.npy", np.load(MODELS / "digits.npz")["image"][:1])
    command = [sys.executable, "-m", "edgeferry_runtime", "run", artifact, "--input", tmp_path / "x.npy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "dígit" in done.stdout


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[", "null"])
def test_labels_of_another_form_are_none(text: str, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(MODELS / "digits.onnx")
    onnx.helper.set_model_props(model, {"labels": text})
    onnx.save(model, tmp_path / "m.onnx")
    assert artifact_labels(tmp_path / "m.onnx", "onnx") == ()


numbers = st.floats(-300, 300, width=32)


@pytest.mark.slow
@given(
    st.floats(0.001, 2),
    st.lists(numbers, min_size=3, max_size=3),
    st.lists(st.floats(0.01, 300), min_size=3, max_size=3),
)
def test_normalization_of_pixels_is_ours_rewritten(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    ours = Preprocess(scale=scale, mean=mean, std=std)
    theirs = normalization(ours)
    for pixel in (0, 17, 255):
        expected = (pixel * scale - np.array(mean)) / np.array(std)
        np.testing.assert_allclose((pixel - np.array(theirs[0])) / np.array(theirs[1]), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=9), max_size=4))
def test_what_is_written_can_be_read(name: str, outputs: list[str]) -> None:
    tensors = tuple(Tensor(text, labels="labels.txt") for text in outputs)
    metadata = Metadata(name, "", (Tensor("x"),), tensors)
    assert read(write(metadata)) == metadata


@given(st.data())
def test_damaged_metadata_is_refused_or_read_and_never_crashes(data: st.DataObject) -> None:
    whole = bytearray(write(Metadata("m", "t", (Tensor("x", GRAY),), (Tensor("y", labels="l"),))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FlatbufferError):
        read(bytes(whole))


@pytest.mark.slow
def test_conversion_writes_them_and_inspection_shows_them(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    bundle = convert(MODELS / "digits.tflite", tmp_path / "b", quantize="dynamic", labels=tmp_path / "labels.txt")
    bundle.check()
    said = inspect(bundle.path).metadata
    assert "digit has labels in labels.txt" in said["TFLITE_METADATA"]
    assert said["files behind the model"].startswith("labels.txt (")
    again = convert(bundle.artifact, tmp_path / "c")
    assert zipfile.ZipFile(again.artifact).namelist() == ["labels.txt"], "a copy carries on what its source carried"


@pytest.mark.slow
def test_a_quantized_copy_carries_on_what_its_source_carried(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((MODELS / "digits.tflite").read_bytes())
    describe(path, FULL)
    bundle = convert(path, tmp_path / "b", quantize="dynamic")
    assert zipfile.ZipFile(bundle.artifact).read("labels.txt").decode().splitlines() == list(LABELS)
    assert _read(bundle.artifact).outputs[0].labels == "labels.txt"


def test_an_archive_behind_a_model_that_is_damaged_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((MODELS / "digits.tflite").read_bytes())
    describe(path, FULL)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x03"))
    with contextlib.suppress(EdgeferryError):
        inspect(path)
    assert zipfile.is_zipfile(io.BytesIO(whole))
