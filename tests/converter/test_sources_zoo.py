"""Models that others trained: each lowers to both formats and answers as its source does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter.sources import Source, SourceSpec, open_source
from edgeferry_runtime.numerics import compare_output

pytestmark = [pytest.mark.slow, pytest.mark.zoo]

TINY = "mlperf-tiny/benchmark/training"
FACES = "face-classification-keras/trained_models"
KERAS = {
    f"{TINY}/image_classification/trained_models/pretrainedResnet.h5": 255.0,
    f"{FACES}/fer2013_mini_XCEPTION.119-0.65.hdf5": 1.0,
    f"{FACES}/emotion_models/fer2013_mini_XCEPTION.102-0.66.hdf5": 1.0,
    f"{FACES}/emotion_models/tiny_XCEPTION_KDEF.hdf5": 1.0,
}


def check(source: Source, feeds: list[np.ndarray], folder: Path) -> None:
    """Lower to both formats and compare every output over all feeds; float32 leaves about 120 dB."""
    (name,) = (t.name for t in source.inputs)
    expected = [source.run({name: x}) for x in feeds]
    for to in source.lowers_to:
        source.lower(to, folder / to)
        with edgeferry_runtime.load(folder / to) as model:
            actual = [model.run({name: x}) for x in feeds]
        for t in source.outputs:
            reference, lowered = (np.stack([answer[t.name] for answer in answers]) for answers in (expected, actual))
            error = compare_output(t.name, reference, lowered)
            assert error.snr_db > 60
            assert error.top1 == 1.0


@pytest.mark.parametrize("path", KERAS, ids=lambda p: Path(p).stem)
def test_keras_hdf5(zoo: Path, tmp_path: Path, path: str) -> None:
    source = open_source(SourceSpec(zoo / path))
    rng = np.random.default_rng(0)
    shape = (1, *source.inputs[0].shape[1:])
    check(source, [(rng.random(shape) * KERAS[path]).astype(np.float32) for _ in range(8)], tmp_path)


def test_keyword_spotting_saved_model(zoo: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(zoo / TINY / "keyword_spotting/trained_models/kws_ref_model"))
    clips = np.load(zoo / "mlperf-tiny/kws01_500.npz")
    features = (clips["features_int8"].astype(np.float32) - clips["zero_point"]) * clips["scale"]
    feeds = list(features.astype(np.float32).reshape(-1, 1, 49, 10, 1)[:100])
    guesses = [int(next(iter(source.run({"input_1": x}).values())).argmax()) for x in feeds]
    assert np.mean(np.array(guesses) == clips["label"][:100]) > 0.85
    check(source, feeds[:20], tmp_path)


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet44-014dd654.th"])
def test_cifar_resnet(zoo: Path, tmp_path: Path, name: str) -> None:
    file = Path(__file__).with_name("resnet_cifar.py")
    weights = zoo / "resnet-cifar10-torch/pretrained_models" / name
    source = open_source(SourceSpec(file, name.split("-", maxsplit=1)[0], weights, {"image": (1, 3, 32, 32)}))
    rng = np.random.default_rng(0)
    check(source, [rng.standard_normal((1, 3, 32, 32), dtype=np.float32) for _ in range(8)], tmp_path)


def test_onnx_and_tflite_files(zoo: Path, tmp_path: Path) -> None:
    onnx = sorted((zoo / "ultraface/models/onnx").glob("version-RFB-320.onnx"))
    tflite = zoo / TINY / "image_classification/trained_models/pretrainedResnet_quant.tflite"
    for path in (*onnx, tflite):
        source = open_source(SourceSpec(path))
        (to,) = source.lowers_to
        source.lower(to, tmp_path / path.name)
        rng = np.random.default_rng(0)
        feeds = {t.name: rng.random([abs(d) for d in t.shape], dtype=np.float32) for t in source.inputs}
        with edgeferry_runtime.load(tmp_path / path.name) as model:
            assert (model.inputs, model.outputs) == (source.inputs, source.outputs)
            answer = model.run(feeds)
        for name, reference in source.run(feeds).items():
            np.testing.assert_allclose(answer[name], reference, atol=1e-5)
