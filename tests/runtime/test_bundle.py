"""Bundles: whole or not there, unchanged or refused, and never outside their folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.bundle import MANIFEST, Bundle, Probe, check_output, is_bundle, write_bundle
from edgeferry_runtime.errors import BundleError, MissingFileError, OutputExistsError


def edit(bundle: Bundle, change) -> None:
    path = bundle.path / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_written_bundle_opens_checks_and_runs(make_bundle) -> None:
    bundle = make_bundle("double.tflite", labels=("a", "b", "c", "d"))
    again = Bundle.open(bundle.path)
    assert again == bundle
    again.check()
    assert again.labels == ("a", "b", "c", "d")
    with again.load() as model:
        assert model(np.ones((1, 4), np.float32)).tolist() == [[2, 2, 2, 2]]


def test_same_content_has_the_same_id(make_bundle) -> None:
    assert make_bundle("double.onnx").id == make_bundle("double.onnx").id


def test_a_changed_file_is_found(make_bundle) -> None:
    bundle = make_bundle("double.tflite")
    with bundle.artifact.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match=r"model\.tflite was changed"):
        bundle.check()


def test_a_changed_manifest_is_found(make_bundle) -> None:
    bundle = make_bundle("double.tflite")
    edit(bundle, lambda data: data["tolerance"].update(max_abs=1e9))
    with pytest.raises(BundleError, match="id does not match"):
        Bundle.open(bundle.path).check()


@pytest.mark.parametrize("name", ["../model.tflite", "/etc/passwd", "a/b", "..", ""])
def test_a_file_outside_the_folder_is_refused(make_bundle, name: str) -> None:
    bundle = make_bundle("double.tflite")
    edit(bundle, lambda data: data["artifact"].update(file=name))
    with pytest.raises(BundleError, match="outside its folder"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("inputs"),
        lambda data: data.update(schema=99),
        lambda data: data.update(format="something else"),
        lambda data: data.update(tolerance={"unknown": 1}),
        lambda data: data["files"].update({"gone.txt": "00"}),
    ],
)
def test_a_damaged_manifest_is_a_bundle_error(make_bundle, change) -> None:
    bundle = make_bundle("double.tflite")
    edit(bundle, change)
    with pytest.raises(BundleError):
        Bundle.open(bundle.path)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleError, match="is no bundle"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("[1]")
    assert not is_bundle(tmp_path)
    with pytest.raises(BundleError):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("failure", [RuntimeError("full"), KeyboardInterrupt()])
def test_a_failure_while_filling_leaves_nothing(make_bundle, tmp_path: Path, failure: BaseException) -> None:
    manifest = make_bundle("double.tflite").manifest
    target = tmp_path / "out" / "new"
    target.parent.mkdir()

    def fill(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_bundle(target, manifest, fill)
    assert list(target.parent.iterdir()) == []


def test_a_failure_keeps_the_older_bundle(make_bundle) -> None:
    bundle = make_bundle("double.tflite")

    def fill(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(bundle.path, bundle.manifest, fill)
    Bundle.open(bundle.path).check()


def test_a_bundle_replaces_a_bundle_and_nothing_else(make_bundle, tmp_path: Path) -> None:
    first = make_bundle("double.tflite")
    second = make_bundle("pair.tflite")
    assert second.path == first.path
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        check_output(tmp_path / "theirs")
    with pytest.raises(MissingFileError):
        check_output(tmp_path / "no" / "folder")


def test_probe_round_trip(tmp_path: Path) -> None:
    probe = Probe({"a:0": np.arange(6).reshape(2, 3)}, {"deep/name": np.ones((2, 1), np.float32)})
    probe.save(tmp_path / "probe.npz")
    again = Probe.load(tmp_path / "probe.npz")
    assert len(again) == 2
    assert [feed["a:0"].tolist() for feed in again.feeds()] == [[0, 1, 2], [3, 4, 5]]
    assert again.outputs["deep/name"].dtype == np.float32


def test_a_probe_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "probe.npz", **{"input/x": np.array([{"code": 1}], object)})
    with pytest.raises(BundleError):
        Probe.load(tmp_path / "probe.npz")
    (tmp_path / "probe.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(BundleError):
        Probe.load(tmp_path / "probe.npz")
