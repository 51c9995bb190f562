"""The way of one model: plans that are refused early, bundles that are whole, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import Recipe, Step, convert, plan
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import (
    DataError,
    MissingFileError,
    OutputExistsError,
    UnknownFormatError,
    UnknownNameError,
    UsageError,
    VerificationError,
)
from edgeferry_runtime.numerics import Tolerance, compare_output

pytest.importorskip("ai_edge_quantizer")
pytest.importorskip("onnxruntime")

MODELS = Path(__file__).parent / "models"
DATA = MODELS / "digits.npz"


@pytest.fixture()
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is TMPDIR, to see what stays in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("bundle") / "digits int8"
    labels = output.with_name("labels.txt")
    labels.write_text("\n".join(f"digit {i}" for i in range(10)) + "\n")
    return convert(MODELS / "digits.tflite", output, quantize="int8", calibrate=DATA, labels=labels, io_dtype="int8")


@pytest.mark.slow
def test_a_bundle_is_whole_and_can_be_called(bundle: Bundle) -> None:
    bundle.check()
    assert sorted(p.name for p in bundle.path.iterdir()) == [
        "aeq_recipe.json",
        "labels.txt",
        "manifest.json",
        "model.tflite",
        "probe.npz",
        "recipe.toml",
    ]
    assert bundle.labels[3] == "digit 3"
    probe = bundle.probe()
    model = bundle.load()
    for name, reference in probe.outputs.items():
        actual = np.stack([model.run(feeds)[name] for feeds in probe.feeds()])
        assert not bundle.manifest.tolerance.violations(compare_output(name, reference, actual))


def test_the_manifest_tells_all(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.name == "digits-int8"
    assert (manifest.format, manifest.precision) == ("tflite", "int8")
    assert [(s.name, s.dtype) for s in manifest.inputs] == [("image", "int8")]
    assert [s.name for s in manifest.outputs] == ["digit", "features"]
    assert manifest.source["name"] == "digits.tflite"
    assert len(manifest.source["sha256"]) == 64
    assert manifest.verification["probe"] == "calibration"
    assert manifest.verification["samples"] == 32
    assert [o["name"] for o in manifest.verification["outputs"]] == ["digit", "features"]
    assert {"edgeferry", "ai-edge-quantizer"} <= set(manifest.tools)


@pytest.mark.slow
def test_its_recipe_makes_the_same_bundle_again(bundle: Bundle, tmp_path: Path) -> None:
    recipe = Recipe.from_toml(bundle.path / "recipe.toml")
    again = convert(MODELS / "digits.tflite", tmp_path / "digits int8", recipe)
    assert again.manifest.files["model.tflite"] == bundle.manifest.files["model.tflite"]
    assert again.manifest.files["probe.npz"] == bundle.manifest.files["probe.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("quantize", ["none", "fp16", "dynamic", "int8"])
def test_every_precision_verifies(to: str, quantize: str, tmp_path: Path, temporary: Path) -> None:
    steps: list[Step] = []
    made = convert(
        MODELS / f"digits.{to}", tmp_path / "b", to=to, quantize=quantize, calibrate=DATA, progress=steps.append
    )
    assert made.manifest.precision == quantize
    names = [step.name.split()[0] for step in steps if step.seconds is not None]
    assert names == ["open", "run", "lower", *(["quantize"] if quantize != "none" else []), "verify"]
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_without_data_the_inputs_are_random_and_that_is_said(tmp_path: Path) -> None:
    made = [convert(MODELS / "digits.onnx", tmp_path / n, to="onnx", seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2))]
    assert made[0].manifest.verification["probe"] == "random"
    assert "seed 1 (image in 0 to 1)" in made[0].manifest.verification["note"]
    files = [b.manifest.files["probe.npz"] for b in made]
    assert files[0] == files[1] != files[2]


@pytest.mark.slow
def test_a_probe_of_its_own_goes_before_the_calibration_data(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.load(DATA)["image"][:3])
    made = convert(
        MODELS / "digits.tflite", tmp_path / "b", quantize="int8", calibrate=DATA, probe=tmp_path / "p.npy", samples=9
    )
    assert (made.manifest.verification["probe"], len(made.probe())) == ("probe", 3)


@pytest.mark.slow
def test_an_older_bundle_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    first = convert(MODELS / "digits.tflite", tmp_path / "b")
    second = convert(MODELS / "digits.tflite", tmp_path / "b", quantize="fp16")
    assert first.id != second.id == Bundle.open(tmp_path / "b").id
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputExistsError):
        convert(MODELS / "digits.tflite", tmp_path / "mine")
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"


@pytest.mark.slow
def test_a_failed_proof_leaves_no_bundle(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(VerificationError, match="digit: max abs error"):
        convert(
            MODELS / "digits.tflite", tmp_path / "b", quantize="int8", calibrate=DATA, tolerance=Tolerance(max_abs=1e-9)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tmp"]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("source", "changes", "error", "said"),
    [
        ("digits.tflite", {"quantize": "int8"}, UsageError, "give --calibrate DATA .*or use --quantize dynamic"),
        ("digits.tflite", {"to": "onnx"}, UsageError, "is tflite already"),
        ("digits.onnx", {"to": "tflite"}, UsageError, "use --to onnx"),
        ("digits.tflite", {"calibrate": "nowhere.npz"}, MissingFileError, "no such data"),
        ("digits.tflite", {"probe": MODELS / "make.py"}, DataError, "neither .npy nor .npz"),
        ("digits.tflite", {"labels": "nowhere.txt"}, MissingFileError, "no such labels"),
        ("digits.tflite", {"weights": "w.pt"}, UsageError, "brings its own weights"),
        ("make.py:nothing", {"weights": "w.pt"}, MissingFileError, "no such weights"),
        ("nowhere.h5", {}, MissingFileError, "no such file"),
        ("digits.npz", {}, UnknownFormatError, "zip archive of another kind"),
    ],
)
def test_a_plan_is_refused_before_a_framework_is_imported(
    source: str, changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        plan(MODELS / source, tmp_path / "b", Recipe(**changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_planning_imports_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeferry_converter import plan, Recipe\n"
        f"plan({str(MODELS / 'digits.tflite')!r}, {str(tmp_path / 'b')!r}, Recipe())\n"
        "print(sorted({'tensorflow', 'torch', 'onnx', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_fields_are_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'quantize'"):
        convert(MODELS / "digits.tflite", tmp_path / "b", quantise="int8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((4, 1, 8, 8), "f4"), "range cannot be taken"),
        (np.full((4, 1, 8, 8), np.nan, "f4"), "holds NaN"),
        (np.zeros((4, 8, 8, 3), "f4"), r"has shape \[8, 8, 3\], and the input is image"),
        (np.zeros((4, 1, 8, 8), "i8"), "is int64"),
    ],
)
def test_data_that_do_not_fit_leave_nothing(values: np.ndarray, said: str, tmp_path: Path, temporary: Path) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=said):
        convert(MODELS / "digits.tflite", tmp_path / "b", quantize="int8", calibrate=tmp_path / "x.npy")
    assert not (tmp_path / "b").exists()
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    for text, said in (("a\nb\n", "2 labels, and the output 'digit' has 10"), ("\n", "holds no labels")):
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(DataError, match=said):
            convert(MODELS / "digits.tflite", tmp_path / "b", labels=tmp_path / "l.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match="no UTF-8"):
        convert(MODELS / "digits.tflite", tmp_path / "b", labels=tmp_path / "l.txt")


def interrupt(arguments: list[str], folder: Path, after: str, delay: float) -> None:
    """Send ``ferry convert`` a SIGINT, `delay` seconds after it said `after`: the bundle is whole or not at all."""
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "edgeferry_runtime", "convert", *arguments, "-o", str(folder / "b")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as child:
        assert child.stderr is not None
        said = b""
        while after.encode() not in said:
            read = os.read(child.stderr.fileno(), 4096)
            assert read, said
            said += read
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        said += child.stderr.read()
    assert not list((folder / "tmp").iterdir())
    if (folder / "b").exists():
        Bundle.open(folder / "b").check()
        assert sorted(p.name for p in folder.iterdir()) == ["b", "tmp"]
        return
    assert [p.name for p in folder.iterdir()] == ["tmp"]
    assert child.returncode in (130, -signal.SIGINT), said.decode()
    assert b"Traceback" not in said
    assert said.decode().splitlines()[-1] == "ferry: interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(("after", "delay"), [("open", 0.0), ("lower", 0.0), ("quantize", 0.05), ("verify", 0.02)])
def test_an_interrupt_leaves_nothing(after: str, delay: float, tmp_path: Path) -> None:
    arguments = [str(MODELS / "digits.tflite"), "--quantize", "int8", "--calibrate", str(DATA), "--samples", "64"]
    interrupt(arguments, tmp_path, after, delay)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "delay"), [("open", 0.5), ("open", 2.0), ("lower", 0.1), ("lower", 0.3)])
def test_an_interrupt_in_a_training_framework_leaves_nothing(
    after: str, delay: float, keras_cnn: Path, tmp_path: Path
) -> None:
    interrupt([str(keras_cnn)], tmp_path, after, delay)


@pytest.mark.slow
def test_a_factory_takes_its_shape_from_the_data(torch_factory: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 1, 8, 8)).astype("f4"))
    made = convert(
        torch_factory.text, tmp_path / "b", weights=torch_factory.pt, calibrate=tmp_path / "x.npy", to="onnx"
    )
    assert [(s.name, s.shape) for s in made.manifest.inputs] == [("image", (1, 1, 8, 8))]
    assert made.manifest.source["weights"]["name"] == "net.pt"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("kind", ["keras_two", "savedmodel", "exported"])
def test_sources_keep_names_and_order_through_int8(
    kind: str, to: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    first = convert(source, tmp_path / "float", to=to)
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz", **{s.name: random.random((20, *s.shape[1:])).astype("f4") for s in first.manifest.inputs}
    )
    made = convert(source, tmp_path / "int8", to=to, quantize="int8", calibrate=tmp_path / "x.npz")
    for border in ("inputs", "outputs"):
        names = [[s.name for s in getattr(b.manifest, border)] for b in (first, made)]
        assert names[0] == names[1]
    with made.load() as model:
        assert [s.name for s in model.outputs] == [s.name for s in made.manifest.outputs]
