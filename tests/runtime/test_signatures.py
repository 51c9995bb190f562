"""Artifacts with several signatures: each is reached by its name, whatever runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import BenchOptions, Bundle, bench, load
from edgeferry_runtime.bundle import MANIFEST, PROBE, Manifest, Probe, SignatureSpec, write_bundle
from edgeferry_runtime.errors import BundleError, DataError, UnknownNameError
from edgeferry_runtime.guard import try_in_child
from edgeferry_runtime.worker import probe

X = np.float32([[1, 2, 3, 4]])
Q = np.ones((2, 3), np.float32)


@pytest.fixture
def two(artifacts: dict[str, Path], tmp_path: Path) -> Bundle:
    """A bundle of the signatures double (primary) and zero, each with a probe of its own."""
    with load(artifacts["two.tflite"]) as double, load(artifacts["two.tflite"], signature="zero") as zero:
        specs = {
            "double": SignatureSpec(double.inputs, double.outputs),
            "zero": SignatureSpec(zero.inputs, zero.outputs, "probe-1.npz"),
        }
    described = Manifest("two", "model.tflite", "tflite", "none", *_sides(specs["double"]), source={}, signatures=specs)

    def fill(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(artifacts["two.tflite"].read_bytes())
        Probe({"x": X[None]}, {"y": 2 * X[None]}).save(folder / PROBE)
        Probe({"question": Q[None]}, {"answer": 0 * Q[None]}).save(folder / "probe-1.npz")

    return write_bundle(tmp_path / "two", described, fill)


def _sides(spec: SignatureSpec) -> tuple[tuple, tuple]:
    return spec.inputs, spec.outputs


def test_each_signature_of_a_file_is_reached(artifacts) -> None:
    with load(artifacts["two.tflite"]) as model:
        assert (model.signature, model.signatures) == ("double", ("double", "zero"))
        assert model(X).tolist() == [[2, 4, 6, 8]]
    with load(artifacts["two.tflite"], signature="zero") as model:
        assert (model.signature, model.signatures) == ("zero", ("double", "zero"))
        assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["question", "answer"]
        assert model(Q).tolist() == model(question=Q).tolist() == np.zeros((2, 3)).tolist()
        with pytest.raises(DataError):
            model(X)


def test_files_of_one_signature_or_none(artifacts) -> None:
    assert load(artifacts["pair.tflite"], signature="serving_default").signatures == ("serving_default",)
    assert load(artifacts["double.tflite"]).signatures == load(artifacts["double.onnx"]).signatures == ()
    assert load(artifacts["double.onnx"]).signature == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("two.tflite", "did you mean 'double'"),
        ("double.tflite", "the file has no signature"),
        ("double.onnx", "an ONNX file has no signatures"),
    ],
)
def test_an_unknown_signature(artifacts, kind: str, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        load(artifacts[kind], signature="duoble")


def test_a_child_tries_every_signature(artifacts) -> None:
    try_in_child(artifacts["two.tflite"])


def test_a_bundle_tells_of_its_signatures(two: Bundle) -> None:
    two.check()
    assert Bundle.open(two.path).manifest == two.manifest
    assert two.load().signature == "double"
    with two.load(signature="zero") as model:
        assert [spec.name for spec in model.inputs] == ["question"]
    assert list(two.probe().inputs) == list(two.probe("double").inputs) == ["x"]
    assert list(two.probe("zero").inputs) == ["question"]
    for act in (two.probe, lambda name: two.load(signature=name)):
        with pytest.raises(UnknownNameError, match="did you mean 'zero'"):
            act("zeros")


def test_a_manifest_of_one_signature_is_as_before(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle("pair.tflite")
    assert "signatures" not in json.loads((bundle.path / MANIFEST).read_text())
    assert len(bundle.probe("serving_default")) == 2
    assert bundle.load(signature="serving_default").signature == "serving_default"


@pytest.mark.parametrize("change", [{"probe": "elsewhere.npz"}, {"inputs": []}, {"outputs": None}, {"probe": 3}])
def test_a_damaged_signature_is_refused(two: Bundle, change: dict[str, object]) -> None:
    manifest = json.loads((two.path / MANIFEST).read_text())
    manifest["signatures"]["zero"] |= change
    (two.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.open(two.path)


def test_the_proof_on_a_device_covers_every_signature(two: Bundle) -> None:
    found = probe({"bundle": str(two.path), "delegate": "cpu", "full": False}, print)
    assert [figure["name"] for figure in found["figures"]] == ["double: y", "zero: answer"]
    assert (found["samples"], found["violations"]) == (2, [])


@pytest.mark.slow
def test_measuring_one_of_them(two: Bundle) -> None:
    options = BenchOptions(num_runs=2, warmup_runs=1, min_secs=0, signature="zero")
    assert bench(two.path, options).artifact["signature"] == "zero"
    assert bench(two.artifact, options).artifact["signature"] == "zero"
    with pytest.raises(UnknownNameError):
        bench(two.path, BenchOptions(signature="none"))


@pytest.mark.slow
def test_the_commands(two: Bundle, ferry, tmp_path: Path) -> None:
    status, out, err = ferry("run", two.path, "--signature", "zero", "--json")
    assert status == 0, err
    assert [output["name"] for output in json.loads(out)["outputs"]] == ["answer"]
    assert "ran the signature double; others: zero\n" in ferry("run", two.path)[2]
    np.save(tmp_path / "q.npy", Q)
    assert ferry("run", two.artifact, "--signature", "zero", "--input", tmp_path / "q.npy")[0] == 0
    status, out, _ = ferry("bench", two.path, "--signature", "zero", "--num-runs", 1, "--min-secs", 0)
    assert status == 0
    assert "signature zero" in out
    status, _, err = ferry("run", two.path, "--signature", "zeros")
    assert status == 2
    assert "did you mean 'zero'" in err
