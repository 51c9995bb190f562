"""Models that others trained, on data that others labelled: the runtime gives the answers that are known."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import load
from edgeferry_runtime.preprocess import Preprocess, read_image

pytestmark = pytest.mark.zoo


def test_keyword_spotting_int8(zoo: Path) -> None:
    with np.load(zoo / "mlperf-tiny" / "kws01_500.npz") as file:
        clips = dict(file)
    path = next(zoo.glob("mlperf-tiny/**/keyword_spotting/trained_models/kws_ref_model.tflite"))
    real = (clips["features_int8"].astype(np.float32) - clips["zero_point"]) * clips["scale"]
    with load(path) as model:
        answers = [int(np.argmax(model(clip.reshape(1, 49, 10, 1)))) for clip in real.astype(np.float32)]
        stored = model(clips["features_int8"][:1].reshape(1, 49, 10, 1).astype(np.int8), raw=True)
        assert stored.dtype == np.int8
    assert np.mean(np.array(answers) == clips["label"]) == pytest.approx(0.8986, abs=0.002)


def test_imagenet_uint8_knows_the_cat(zoo: Path) -> None:
    pytest.importorskip("PIL")
    preprocess = Preprocess(resize=(224, 224), scale=1 / 128, mean=(1.0,))
    with load(zoo / "coral" / "mobilenet_v2_1.0_224_quant.tflite") as model:
        scores = model(read_image(zoo / "coral" / "cat.bmp", preprocess))
    assert int(np.argmax(scores)) == 286


def test_mnist_onnx(zoo: Path) -> None:
    images = np.frombuffer(gzip.decompress((zoo / "mnist/data/t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((zoo / "mnist/data/t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    digits = images.reshape(-1, 1, 1, 28, 28)[:1000].astype(np.float32)
    with load(next(zoo.glob("qonnx/**/mnist-conv/model.onnx"))) as model:
        answers = [int(np.argmax(model(digit))) for digit in digits]
    assert np.mean(np.array(answers) == labels[:1000]) >= 0.98


def test_one_face_detector_in_two_formats_agrees(zoo: Path) -> None:
    folder = zoo / "ultraface"
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 240, 320, 3)).astype(np.float32)
    with load(next(folder.glob("**/*without_postprocessing.onnx"))) as model:
        first = model.run({"input": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})
    with load(next(folder.glob("**/*without_postprocessing.tflite"))) as model:
        second = model.run({"input_1": pixels})
    np.testing.assert_allclose(second["Identity"], first["boxes"], atol=1e-3)
    np.testing.assert_allclose(second["Identity_1"], first["scores"], atol=1e-3)


def test_speech_detector_with_dynamic_inputs_and_state(zoo: Path) -> None:
    paths = sorted(zoo.glob("silero-vad/**/silero_vad*.onnx"))
    feeds = {
        "input": np.sin(np.arange(512, dtype=np.float32) / 7)[np.newaxis],
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }
    answers = []
    for path in paths:
        with load(path) as model:
            answers.append(model.run({spec.name: feeds[spec.name] for spec in model.inputs})["output"])
    assert len(answers) == 3
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)
