"""``ferry run``, as a user meets it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import cli
from edgeferry_runtime.commands import run as command
from edgeferry_runtime.commands.tensors_text import outputs_json, outputs_text, top_classes
from edgeferry_runtime.preprocess import Preprocess


@pytest.fixture
def x(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.float32([[1, 2, 3, 4]]))
    return tmp_path / "x.npy"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["double.tflite", "double.onnx"])
def test_an_artifact_on_an_array(ferry, artifacts, x: Path, kind: str) -> None:
    code, out, err = ferry("run", artifacts[kind], "--input", x)
    assert (code, out, err) == (0, "y  float32[1x4]\n  2 4 6 8\n", "")


@pytest.mark.slow
def test_a_bundle_on_its_probe(ferry, make_bundle) -> None:
    code, out, err = ferry("run", make_bundle("pair.tflite").path)
    assert code == 0
    assert "total  float32[2x3]\n  2 2 2 2 2 2" in out
    assert err == "no --input: running the first sample of the bundle's probe\n"


@pytest.mark.slow
def test_json(ferry, artifacts, x: Path) -> None:
    code, out, _ = ferry("run", artifacts["double.onnx"], "--input", f"x={x}", "--json")
    data = json.loads(out)
    assert code == 0
    assert next(iter(data)) == "schema"
    assert data["outputs"] == [
        {"name": "y", "shape": [1, 4], "dtype": "float32", "values": [[2.0, 4.0, 6.0, 8.0]], "top": []}
    ]


@pytest.mark.slow
def test_labels_name_the_top_classes(ferry, make_bundle, x: Path) -> None:
    bundle = make_bundle("double.onnx", labels=("ant", "bee", "cat", "dog"))
    code, out, _ = ferry("run", bundle.path, "--input", x, "--top", 2)
    assert code == 0
    assert out.splitlines() == [
        "y  float32[1x4]",
        "  class  score  label",
        "      3      8  dog",
        "      2      6  cat",
    ]


@pytest.mark.slow
def test_raw_feeds_and_prints_stored_integers(ferry, artifacts, make_bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", np.int8([[3, 3, 3, 3]]))
    code, out, _ = ferry("run", artifacts["int8.tflite"], "--input", tmp_path / "q.npy", "--raw")
    assert (code, out) == (0, "y  int8[1x4]\n  0 0 0 0\n")
    code, out, _ = ferry("run", make_bundle("int8.tflite").path, "--raw")
    assert code == 0
    assert out.startswith("y  int8[1x4]")


@pytest.mark.slow
def test_output_is_written(ferry, artifacts, x: Path, tmp_path: Path) -> None:
    code, _, _ = ferry("run", artifacts["double.onnx"], "--input", x, "--output", tmp_path / "y.npz")
    assert code == 0
    with np.load(tmp_path / "y.npz") as found:
        assert found["y"].tolist() == [[2, 4, 6, 8]]


@pytest.mark.slow
def test_a_picture_goes_through_the_bundles_preprocessing(ferry, make_bundle, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image").fromarray(np.full((1, 4), 51, np.uint8)).save(tmp_path / "gray.png")
    bundle = make_bundle("double.onnx", preprocess=Preprocess(scale=1 / 255, color="gray"))
    code, _, err = ferry("run", bundle.path, "--input", tmp_path / "gray.png")
    assert code == 1
    assert "input x: takes float32[1x4], and was given float32[1x1x4x1]" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.onnx"], 1, "none.onnx: no such file; check the path"),
        (["{artifact}"], 2, "is a bare artifact, which has no probe; give --input FILE"),
        (["{artifact}", "--input", "none.npy"], 1, "none.npy: no such input file"),
        (["{artifact}", "--delegate", "npuu"], 2, "unknown name 'npuu'"),
        (["{artifact}", "--output", "out.txt"], 2, "does not end in .npz"),
        (["{artifact}", "--output", "no/where.npz"], 1, "no: no such folder"),
        (["{artifact}", "--device", "pi"], 1, "only bundles go to a device"),
        (["{artifact}", "--device", "pi", "--delegate", "cpu"], 2, "works on this machine only"),
        (["{artifact}", "--top", "0"], 2, "--top"),
        (["broken.onnx"], 1, "broken.onnx: is a damaged ONNX file"),
        (["."], 1, "is no bundle"),
    ],
)
def test_what_goes_wrong_is_one_line(
    ferry, artifacts, tmp_path: Path, monkeypatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(artifacts["pair.onnx"].read_bytes()[:60])
    found, out, err = ferry("run", *(a.format(artifact=artifacts["double.onnx"]) for a in arguments))
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == [Path("broken.onnx")]


def test_a_changed_bundle_is_refused(ferry, make_bundle) -> None:
    bundle = make_bundle("double.onnx")
    bundle.artifact.write_bytes(bundle.artifact.read_bytes() + b"\x72\0")
    code, _, err = ferry("run", bundle.path)
    assert code == 1
    assert "model.onnx was changed" in err


def test_a_device_gets_feeds_made_here(ferry, make_bundle, x: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle("int8.onnx")
    seen = {}

    def run_on_device(target, device, feeds, raw, say, signature):
        seen.update(target=target, device=device, feeds=feeds, raw=raw, signature=signature)
        return {"y": np.float32([[0.5]])}

    names = {"run_on_device": run_on_device, "open_device": lambda name, _: nullcontext(name), "terminal": lambda: None}
    monkeypatch.setattr(command, "resolve", lambda module, name: names[name])
    code, out, _ = ferry("run", bundle.path, "--device", "shelf", "--input", x)
    assert (code, out) == (0, "y  float32[1x1]\n  0.5\n")
    assert (seen["target"], seen["device"], seen["raw"], seen["signature"]) == (bundle.path, "shelf", False, None)
    assert seen["feeds"]["x"].tolist() == [[1, 2, 3, 4]]
    assert cli.resolve is not command.resolve


def test_top_classes_need_labels_or_probabilities() -> None:
    assert top_classes(np.float32([[0.1, 0.7, 0.2]]), (), 2)[0] == {
        "index": 1,
        "label": None,
        "score": pytest.approx(0.7),
    }
    assert top_classes(np.float32([[5, -7, 9]]), (), 2) == []
    assert top_classes(np.float32([[5, -7, 9]]), ("a", "b", "c"), 1)[0]["label"] == "c"
    assert top_classes(np.zeros((1, 2, 2, 3), np.float32), (), 2) == []
    assert top_classes(np.float32(0.5).reshape(()), (), 2) == []


def test_long_outputs_are_shown_in_short() -> None:
    text = outputs_text({"y": np.arange(100, dtype=np.int32).reshape(10, 10)}, (), 5)
    assert text == "y  int32[10x10]\n  0 1 2 3 4 5 6 7 ...  (min 0, mean 49.5, max 99)"
    assert "(empty)" in outputs_text({"y": np.zeros((0, 3), np.float32)}, (), 5)
    assert "ab" in outputs_text({"y": np.array([b"ab"], object)}, (), 5)


def test_json_has_no_nan() -> None:
    outputs = {"f": np.float32([1, np.nan, np.inf]), "s": np.array([b"ab"]), "b": np.array([True])}
    values = {o["name"]: o["values"] for o in outputs_json(outputs, (), 5)}
    assert json.loads(json.dumps(values, allow_nan=False)) == {"f": [1, None, None], "s": ["ab"], "b": [True]}
