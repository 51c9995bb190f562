"""Any two models side by side: who is who, how far apart, and what gates say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgeferry_converter.comparison import Gates, Options, verify
from edgeferry_converter.comparison.report import Comparison
from edgeferry_converter.comparison.sides import pair
from edgeferry_runtime.bundle import PROBE, Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.errors import DataError, EdgeferryError, GateError, UnknownNameError, UsageError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import OutputError
from edgeferry_runtime.tensors import TensorSpec

MODELS = Path(__file__).parent / "models"
LITE, ONNX = str(MODELS / "digits.tflite"), str(MODELS / "digits.onnx")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of digits, with what the float model answers as the truth; two labels are wrong."""
    image = np.load(MODELS / "digits.npz")["image"]
    with load(LITE) as model:
        labels = np.array([int(np.argmax(model.run({"image": x[np.newaxis]})["digit"])) for x in image])
    labels[:2] = (labels[:2] + 1) % 10
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    np.savez(path, image=image, label=labels)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the TFLite network whose probe has three samples."""
    image = np.load(MODELS / "digits.npz")["image"][:3, np.newaxis]
    with load(LITE) as model:
        answers = [model.run({"image": x}) for x in image]
        manifest = Manifest("digits", "model.tflite", "tflite", "none", model.inputs, model.outputs, {"name": "digits"})
    probe = Probe({"image": image}, {name: np.stack([a[name] for a in answers]) for name in answers[0]})

    def fill(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(Path(LITE).read_bytes())
        probe.save(folder / PROBE)

    return write_bundle(tmp_path_factory.mktemp("bundle") / "b", manifest, fill)


@pytest.mark.slow
def test_one_network_in_two_formats_agrees() -> None:
    found = verify(ONNX, LITE)
    assert [error.name for error in found.errors] == ["digit", "features"]
    assert max(error.max_abs for error in found.errors) < 1e-4
    assert (found.samples, found.origin, found.notes) == (32, "random inputs of seed 0", ())
    found.check()


@pytest.mark.slow
def test_a_bundle_on_either_side_brings_its_probe(bundle: Bundle) -> None:
    for a, b in ((str(bundle.path), ONNX), (ONNX, str(bundle.path)), (str(bundle.path), LITE)):
        found = verify(a, b)
        assert found.samples == 3
        assert found.origin == f"the probe of {bundle.path}"


@pytest.mark.slow
def test_a_given_probe_stands_before_the_bundles(bundle: Bundle) -> None:
    found = verify(str(bundle.path), ONNX, Options(probe=MODELS / "digits.npz", samples=7))
    assert (found.samples, found.origin) == (7, str(MODELS / "digits.npz"))


@pytest.mark.slow
def test_accuracy_stands_beside_the_numerics(labelled: Path) -> None:
    found = verify(ONNX, LITE, Options(data=labelled, output="digit", gates=Gates(max_drop=0)))
    assert found.accuracy is not None
    assert found.accuracy.samples == 64
    assert found.accuracy.a == found.accuracy.b == pytest.approx(100 * 62 / 64)
    assert found.origin == str(labelled)
    found.check()


@pytest.mark.slow
def test_the_output_of_classes_is_found_alone(labelled: Path) -> None:
    found = verify(LITE, LITE, Options(data=labelled))
    assert found.accuracy is not None and found.accuracy.output == "digit"


@pytest.mark.slow
def test_reference_outputs_serve_mse(labelled: Path, tmp_path: Path) -> None:
    image = np.load(labelled)["image"][:4]
    with load(LITE) as model:
        features = np.stack([model.run({"image": x[np.newaxis]})["features"] for x in image])
    np.savez(tmp_path / "f.npz", image=image, features=features + 0.5)
    found = verify(LITE, ONNX, Options(data=tmp_path / "f.npz", metric="mse", output="features"))
    assert found.accuracy is not None
    assert found.accuracy.a == pytest.approx(0.25, rel=1e-4)
    assert found.accuracy.drop == pytest.approx(0, abs=0.01)


def test_every_gate_that_fails_is_named_with_both_values() -> None:
    errors = (OutputError("y", 0.5, 0.1, 0.9, 20.0), OutputError("z", 0.0, 0.0, 1.0, float("inf")))
    verdicts = Gates(max_abs_error=0.1, min_snr=30).judge(errors, None)
    assert [v.passed for v in verdicts] == [False, False, True, True]
    with pytest.raises(GateError) as caught:
        Comparison("a.h5", "b.tflite", "p", 1, errors, verdicts=verdicts).check()
    said = str(caught.value)
    assert "y: max abs error 0.5 is above --max-abs-error 0.1" in said
    assert "y: SNR dB 20 is below --min-snr 30" in said
    assert "z:" not in said
    assert caught.value.exit_code == 3


def test_a_nan_passes_no_gate() -> None:
    errors = (OutputError("y", float("nan"), 0.1, 0.9, float("nan")),)
    assert not any(v.passed for v in Gates(max_abs_error=1e9, min_snr=-1e9).judge(errors, None))


def specs(*named: tuple[str, tuple[int, ...]]) -> list[TensorSpec]:
    return [TensorSpec(name, shape, "float32") for name, shape in named]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (specs(("x", (1, 4)), ("y", (2,))), specs(("y", (2,)), ("x", (-1, 4))), {"x": "x", "y": "y"}),
        (specs(("x", (-1, 4))), specs(("input_1", (1, 4))), {"x": "input_1"}),
        (specs(("p", (1, 4)), ("q", (1, 9))), specs(("1", (1, 9)), ("0", (1, 4))), {"p": "0", "q": "1"}),
    ],
)
def test_partners_have_one_name_or_else_one_shape(
    a: list[TensorSpec], b: list[TensorSpec], expected: Mapping[str, str]
) -> None:
    assert pair("input", a, b) == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (specs(("x", (1, 3, 8, 8))), specs(("x", (1, 8, 8, 3)))),
        (specs(("p", (4,)), ("q", (4,))), specs(("0", (4,)), ("1", (4,)))),
        (specs(("p", (4,))), specs(("p", (4,)), ("q", (4,)))),
    ],
)
def test_what_cannot_be_paired_is_refused(a: list[TensorSpec], b: list[TensorSpec]) -> None:
    with pytest.raises(DataError):
        pair("input", a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (Options(gates=Gates(max_drop=1)), UsageError),
        (Options(weights=Path("w.pt")), UsageError),
        (Options(shape={"image": (1, 1, 8, 8)}), UsageError),
        (Options(data=MODELS / "digits.npz"), DataError),
        (Options(data=Path("nowhere.npz")), EdgeferryError),
    ],
)
def test_options_that_do_not_fit_are_refused(options: Options, error: type[EdgeferryError]) -> None:
    with pytest.raises(error):
        verify(LITE, ONNX, options)


@pytest.mark.slow
def test_an_unknown_metric_or_output_is_named(labelled: Path) -> None:
    with pytest.raises(UnknownNameError, match="top1, mse, auc"):
        verify(LITE, LITE, Options(data=labelled, metric="top5"))
    with pytest.raises(UnknownNameError, match="digit, features"):
        verify(LITE, LITE, Options(data=labelled, output="digits"))


def ferry(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeferry_runtime", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_shows_all_and_ends_with_3_where_a_gate_fails(labelled: Path) -> None:
    done = ferry(ONNX, LITE, "--data", labelled, "--max-drop", 0.5, "--min-snr", 500)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["output", "digit", "features"]
    assert "top1 of 'digit' on 64 labelled samples: A 96.88%, B 96.88%, a drop of 0 points" in done.stdout
    assert "passed: digit: top1 96.88% of A, 96.88% of B, a drop of 0 is not above --max-drop 0.5" in done.stdout
    assert "FAILED: features: SNR dB" in done.stdout
    assert "is below --min-snr 500" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_json_holds_every_figure(labelled: Path) -> None:
    data = json.loads(ferry(ONNX, LITE, "--data", labelled, "--max-drop", 1, "--json").stdout)
    assert (data["schema"], data["accuracy"]["metric"], data["gates"][0]["passed"]) == (1, "top1", True)
    assert [output["name"] for output in data["outputs"]] == ["digit", "features"]


@pytest.mark.zoo
def test_upstreams_own_conversions_agree_on_what_they_hear(zoo: Path, tmp_path: Path) -> None:
    clips = np.load(zoo / "mlperf-tiny" / "kws01_500.npz")
    real = ((clips["features_int8"].astype(np.float32) - clips["zero_point"]) * clips["scale"]).astype(np.float32)
    np.savez(tmp_path / "k.npz", features=real.reshape(-1, 49, 10, 1), label=clips["label"])
    folder = next(zoo.glob("mlperf-tiny/**/keyword_spotting/trained_models"))
    files = [str(folder / name) for name in ("kws_ref_model_float32.tflite", "kws_ref_model.tflite")]
    found = verify(*files, Options(data=tmp_path / "k.npz", gates=Gates(max_drop=3)))
    assert found.accuracy is not None
    assert found.accuracy.b == pytest.approx(89.86, abs=0.2)
    found.check()


@pytest.mark.slow
def test_a_factory_takes_weights_and_shapes(torch_factory: NamedTuple, torch_lowered: NamedTuple) -> None:
    options = Options(weights=torch_factory.pt, shape=torch_factory.shapes, samples=4)  # type: ignore[attr-defined]
    for artifact in torch_lowered:
        found = verify(torch_factory.text, str(artifact), options)  # type: ignore[attr-defined]
        assert found.errors[0].snr_db > 60
        found.check()


@pytest.mark.slow
def test_a_keras_source_stands_beside_its_artifact(keras_cnn: Path, keras_lowered: NamedTuple) -> None:
    found = verify(str(keras_cnn), str(keras_lowered[0]), Options(gates=Gates(max_abs_error=1e-4)))
    assert found.notes == ()
    found.check()


@pytest.mark.slow
def test_a_delegate_executes_artifacts_and_says_so(bundle: Bundle) -> None:
    found = verify(ONNX, LITE, Options(delegate="cpu:2"))
    assert [execution and execution.delegate for execution in found.executions] == ["cpu:2", "cpu:2"]
    assert found.to_dict()["execution_b"]["processor"].endswith("2 threads")
    found = verify(str(bundle.path), str(bundle.path), Options(delegate="npu,cpu:2"))
    first, second = found.executions
    assert first is None and second is not None
    assert (second.delegate, len(second.fallbacks)) == ("cpu:2", 1)
    assert found.samples == 3
    assert "execution_a" not in found.to_dict()
    assert verify(LITE, LITE).executions == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b", "delegate", "said"),
    [(LITE, "gpuu", "unknown name 'gpuu'"), ("factory", "gpu", "B is factory"), (LITE, "edgetpu", "edgetpu")],
)
def test_delegates_that_cannot_be(b: str, delegate: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(): ...")
    with pytest.raises(EdgeferryError, match=said):
        verify(LITE, f"{tmp_path / 'net.py'}:make" if b == "factory" else b, Options(delegate=delegate))


@pytest.mark.slow
def test_the_command_says_what_executed() -> None:
    command = [sys.executable, "-m", "edgeferry_runtime", "verify", ONNX, LITE, "--delegate", "npu,cpu:2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\nB: cpu:2: CPU, XNNPACK, 2 threads; 9 of 9 nodes" in done.stdout
    assert "\nB: fell back from npu: " in done.stdout
