"""Keras files, read from their configuration and weights alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter.inspection import inspect
from edgeferry_runtime.errors import CorruptFileError, UnknownFormatError

h5py = pytest.importorskip("h5py")


def layer(kind: str, name: str, after: str = "", **config: object) -> dict[str, object]:
    inbound = [[[after, 0, 0, {}]]] if after else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": inbound}


CONV = {"kernel_size": [3, 3], "strides": [2, 2], "padding": "same", "filters": 4}
LAYERS = [
    layer("InputLayer", "image", batch_input_shape=[None, 9, 9, 3]),
    layer("Conv2D", "conv", "image", **CONV),
    layer("DepthwiseConv2D", "depth", "conv", kernel_size=[3, 3], strides=[1, 1], padding="valid", depth_multiplier=1),
    layer("Flatten", "flat", "depth"),
    layer("Dense", "digit", "flat", units=10),
]
WEIGHTS = {"conv": [(3, 3, 3, 4), (4,)], "depth": [(3, 3, 4, 1)], "digit": [(36, 10), (10,)]}
MACS = 5 * 5 * 108 + 3 * 3 * 36 + 360


def h5_file(path: Path) -> Path:
    config = {"layers": LAYERS, "input_layers": [["image", 0, 0]], "output_layers": [["digit", 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        file.attrs["keras_version"] = "2.4.0"
        for name, shapes in WEIGHTS.items():
            for i, shape in enumerate(shapes):
                file[f"model_weights/{name}/{name}/{i}"] = np.zeros(shape, np.float32)
    return path


def keras_file(folder: Path) -> Path:
    with h5py.File(folder / "w.h5", "w") as file:
        for name, shapes in zip(("conv2d", "depthwise_conv2d", "dense"), WEIGHTS.values(), strict=True):
            for i, shape in enumerate(shapes):
                file[f"layers/{name}/vars/{i}"] = np.zeros(shape, np.float32)
    config = {"layers": LAYERS, "output_layers": ["digit", 0, 0]}
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": config}))
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.write(folder / "w.h5", "model.weights.h5")
    return folder / "m.keras"


def test_both_forms_tell_layers_parameters_and_macs(tmp_path: Path) -> None:
    for path in (h5_file(tmp_path / "m.h5"), keras_file(tmp_path)):
        found = inspect(path)
        assert [x.operator for x in found.layers] == ["Conv2D", "DepthwiseConv2D", "Flatten", "Dense"]
        assert found.layers[0].shape == (-1, 5, 5, 4)
        assert found.parameters == 112 + 36 + 370
        assert found.macs == MACS
        assert [(s.name, s.shape) for s in (*found.inputs, *found.outputs)] == [
            ("image", (-1, 9, 9, 3)),
            ("digit", (-1, 10)),
        ]
        assert found.notes == ()


def test_what_the_file_does_not_tell_is_said(tmp_path: Path) -> None:
    path = h5_file(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"Conv2D"', '"MyConv"')
    found = inspect(path)
    assert found.macs is None
    assert found.parameters == 518
    assert any("MACs" in note for note in found.notes)
    assert any("'digit'" in note for note in found.notes)


def test_weights_alone_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = h5_file(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "{"
    with pytest.raises(CorruptFileError):
        inspect(path)
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    with pytest.raises(UnknownFormatError, match="weights"):
        inspect(path)
    whole = h5_file(tmp_path / "n.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError):
        inspect(tmp_path / "half.h5")


@pytest.mark.slow
def test_no_framework_is_imported(tmp_path: Path) -> None:
    code = "import sys; from edgeferry_converter.inspection import inspect; inspect(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(keras_file(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"tensorflow", "keras", "tf_keras", "torch", "jax"})


@pytest.mark.slow
def test_a_model_that_keras_wrote_has_the_parameters_that_keras_counts(keras_cnn: Path, keras_h5: Path) -> None:
    for path in (keras_cnn, keras_h5):
        found = inspect(path)
        assert found.parameters == 80 + 32 + 80 + 16 * (4 * 4 * 8 + 1) + 170
        assert [s.shape for s in (*found.inputs, *found.outputs)] == [(-1, 8, 8, 1), (-1, 10)]
        assert found.macs == 6 * 6 * 72 + 4 * 4 * 72 + 128 * 16 + 160


@pytest.mark.zoo
def test_the_zoo_has_the_published_sizes(zoo: Path) -> None:
    known = {"pretrainedResnet.h5": 78_666, "fer2013_mini_XCEPTION.102-0.66.hdf5": 58_423}
    for path in (*zoo.rglob("*.h5"), *zoo.rglob("*.hdf5")):
        found = inspect(path)
        assert found.macs and found.parameters == known.get(path.name, found.parameters)
    assert inspect(next(zoo.rglob("pretrainedResnet.h5"))).macs == 12_501_632
