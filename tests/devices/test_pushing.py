"""A bundle on every kind of device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_devices.profiling import profile
from edgeferry_devices.pushing import push
from edgeferry_devices.running import run_on_device
from edgeferry_runtime.benchmark import BenchOptions
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.errors import BundleError, DataError, DeviceError, VerificationError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import Tolerance


def test_push_proves_and_publishes(place: Any, bundle: Bundle) -> None:
    said: list[str] = []
    result = push(bundle, place.device, said.append)
    assert not result.up_to_date
    assert result.bytes_sent == sum(f.stat().st_size for f in bundle.path.iterdir() if f.name != "manifest.json")
    assert result.figures[0]["name"] == "y"
    assert result.figures[0]["max_abs"] < 1e-5
    assert result.engine["name"] == "onnxruntime"
    current = place.root / "bundles" / "tiny" / "current"
    assert current.resolve().name == bundle.id
    Bundle.open(current).check()
    assert list((place.root / "store" / "incoming").iterdir()) == []
    assert json.loads(json.dumps(result.to_dict()))["device"] == place.name


def test_second_push_sends_nothing(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    again = push(bundle, place.device)
    assert again.up_to_date
    assert again.bytes_sent == 0


def test_only_new_contents_are_sent(place: Any, bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    push(bundle, place.device)
    other = make_bundle(padding=1000)
    assert push(other, place.device).bytes_sent == 1000
    releases = {path.name for path in (place.root / "bundles/tiny/releases").iterdir()}
    assert releases == {bundle.id, other.id}
    assert push(bundle, place.device).bytes_sent == 0


def test_a_third_release_removes_the_first(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    bundles = [make_bundle(padding=size) for size in (1000, 2000, 3000)]
    for bundle in bundles:
        push(bundle, place.device)
    releases = {path.name for path in (place.root / "bundles/tiny/releases").iterdir()}
    assert releases == {b.id for b in bundles[1:]}
    sizes = sorted(path.stat().st_size for path in (place.root / "store").iterdir() if path.is_file())
    assert 1000 not in sizes
    assert {2000, 3000} <= set(sizes)


def test_failed_probe_leaves_the_old_release(place: Any, bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    push(bundle, place.device)
    with pytest.raises(VerificationError, match=r"y: max abs error 0\.5 is above 1e-05") as caught:
        push(make_bundle(wrong=0.5), place.device)
    assert caught.value.exit_code == 3
    assert f"on {place.name}" in caught.value.subject
    assert (place.root / "bundles/tiny/current").resolve().name == bundle.id
    assert [path.name for path in (place.root / "bundles/tiny/releases").iterdir()] == [bundle.id]


def test_rotten_release_is_replaced(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    rotten = place.root / "bundles/tiny/current/model.onnx"
    content = bytearray(rotten.read_bytes())
    content[-1] ^= 1
    rotten.write_bytes(content)
    result = push(bundle, place.device)
    assert not result.up_to_date
    assert result.bytes_sent == len(content)
    Bundle.open(place.root / "bundles/tiny/current").check()


def test_changed_bundle_is_refused_before_anything_is_sent(place: Any, bundle: Bundle) -> None:
    (bundle.path / "labels.txt").write_text("other\n")
    with pytest.raises(BundleError, match=r"labels\.txt was changed"):
        push(bundle, place.device)
    assert not (place.root / "bundles").exists()


def test_odd_names_are_safe(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    name = "~ two words; quo\"te's $(id) `id` ünï & * #"
    push(make_bundle(name), place.device)
    assert (place.root / "bundles" / name / "current").is_dir()


@pytest.mark.parametrize("name", ["../up", "a/b", "-rf", ".hidden", "new\nline", "", "nul\0", "x" * 300])
def test_dangerous_names_are_refused(place: Any, name: str, make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="cannot be a folder's name"):
        push(make_bundle(name), place.device)
    assert not list(place.root.glob("bundles/*"))


def test_device_in_use_says_by_whom(place: Any, bundle: Bundle) -> None:
    with place.device.open_agent(["onnx"]) as other:
        other.ask("stage", owner="ann@desk")
        with place.device.open_agent(["onnx"]) as agent, pytest.raises(DeviceError, match="in use by run by ann@desk"):
            agent.ask("stage", owner="bob@desk", wait_s=0.1)
    push(bundle, place.device)


def test_files_of_others_are_left_alone(place: Any, bundle: Bundle) -> None:
    shutil.rmtree(place.root / "store", ignore_errors=True)
    (place.root / ".edgeferry-device").unlink(missing_ok=True)
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / "thesis.txt").write_text("precious")
    with pytest.raises(DeviceError, match="holds files that are not ours"):
        push(bundle, place.device)
    assert (place.root / "thesis.txt").read_text() == "precious"


def test_run_on_device(place: Any, bundle: Bundle) -> None:
    feeds = next(bundle.probe().feeds())
    outputs = run_on_device(bundle.path, place.name, feeds)
    np.testing.assert_allclose(outputs["y"], bundle.probe().outputs["y"][0], atol=1e-6)
    assert list((place.root / "store" / "incoming").iterdir()) == []


def test_run_on_device_names_a_wrong_input(place: Any, bundle: Bundle) -> None:
    with pytest.raises(DataError, match=f"on {place.name}.*valid are x"):
        run_on_device(bundle.path, place.name, {"z": np.zeros((1, 8), np.float32)})


@pytest.mark.zoo
def test_a_real_int8_tflite_model(place: Any, zoo: Path, tmp_path: Path) -> None:
    """The keyword spotter of MLPerf Tiny: int8 inside, real values outside."""
    source = next(zoo.glob("mlperf-tiny/**/keyword_spotting/trained_models/kws_ref_model.tflite"))
    with load(source) as model:
        specs = model.inputs, model.outputs
        shape = (2, *(abs(d) for d in specs[0][0].shape))
        inputs = {specs[0][0].name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
        golden = [model.run({name: values[i] for name, values in inputs.items()}) for i in range(2)]
    outputs = {spec.name: np.stack([answer[spec.name] for answer in golden]) for spec in specs[1]}

    def fill(folder: Path) -> None:
        shutil.copyfile(source, folder / "model.tflite")
        Probe(inputs, outputs).save(folder / "probe.npz")

    manifest = Manifest("kws", "model.tflite", "tflite", "int8", *specs, {"format": "tflite"}, Tolerance(max_abs=1e-6))
    bundle = write_bundle(tmp_path / "kws", manifest, fill)
    assert push(bundle, place.device).figures[0]["max_abs"] <= 1e-6
    (measured,) = profile([bundle], [place.name], BenchOptions(num_runs=5, min_secs=0.0)).check().profiles
    assert measured.device == place.name
    assert measured.artifact["format"] == "tflite"


@pytest.fixture
def split_bundle(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle, its weights beside the graph."""
    import onnx

    def fill(folder: Path) -> None:
        model = onnx.load(str(bundle.artifact))
        beside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
        onnx.save_model(model, str(folder / "model.onnx"), **beside)
        shutil.copyfile(bundle.path / "probe.npz", folder / "probe.npz")

    return write_bundle(tmp_path / "split", replace(bundle.manifest, name="split"), fill)


def test_weights_beside_the_artifact_travel_with_it(place: Any, split_bundle: Bundle) -> None:
    names = ("model.onnx", "model.onnx.data", "probe.npz")
    assert set(split_bundle.manifest.files) == set(names)
    assert push(split_bundle, place.device).bytes_sent == sum((split_bundle.path / n).stat().st_size for n in names)
    assert push(split_bundle, place.device).up_to_date
    data = split_bundle.path / "model.onnx.data"
    (place.root / "store" / split_bundle.manifest.files[data.name]).write_bytes(b"rotten")
    assert push(split_bundle, place.device).bytes_sent == data.stat().st_size
