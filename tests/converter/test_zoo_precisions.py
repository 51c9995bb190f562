"""What each precision costs in accuracy, on trained models of others and labelled data."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_converter.overrides import Override
from edgeferry_runtime import load

pytestmark = [pytest.mark.zoo, pytest.mark.slow]

LSTM = "tflite-micro/tensorflow/lite/micro/examples/mnist_lstm/trained_lstm.tflite"
POINTS = {"int16x8": 0.001, "weight-only": 0.001, "dynamic": 0.005, "int8": 0.005, "weight-only-int4": 0.01}
"""How much of the accuracy may be lost."""


def accuracy(path: Path, inputs: np.ndarray, labels: np.ndarray) -> float:
    with load(path) as model:
        answers = [np.argmax(next(iter(model.run({model.inputs[0].name: x[np.newaxis]}).values()))) for x in inputs]
    return float(np.mean(answers == labels))


@pytest.fixture(scope="module")
def clips(zoo: Path) -> tuple[np.ndarray, np.ndarray]:
    """503 spoken words: float32 of [503, 49, 10, 1], and their labels."""
    data = np.load(zoo / "mlperf-tiny/kws01_500.npz")
    real = (data["features_int8"].astype(np.float32) - data["zero_point"]) * data["scale"]
    return real.reshape(-1, 49, 10, 1).astype(np.float32), data["label"]


@pytest.fixture(scope="module")
def keywords(
    zoo: Path, clips: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The keyword net as float artifacts, opened as sources of their own: quantizing needs no training framework."""
    folder = tmp_path_factory.mktemp("kws")
    np.save(folder / "x.npy", clips[0][::5])
    source = next((zoo / "mlperf-tiny").rglob("kws_ref_model"))
    return {to: convert(source, folder / to, to=to).artifact for to in ("tflite", "onnx")}


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("quantize", POINTS)
def test_keyword_spotting_keeps_its_accuracy(
    to: str, quantize: str, keywords: dict[str, Path], clips: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    data = keywords[to].parents[1] / "x.npy"
    made = convert(keywords[to], tmp_path / "b", to=to, quantize=quantize, calibrate=data)
    whole, quantized = accuracy(keywords[to], *clips), accuracy(made.path, *clips)
    assert whole > 0.88
    assert whole - quantized <= POINTS[quantize], f"float {whole:.4f}, {quantize} {quantized:.4f}"


@pytest.fixture(scope="module")
def digits(zoo: Path) -> tuple[np.ndarray, np.ndarray]:
    """2,000 written digits: float32 of [2000, 28, 28] in 0..1, and their labels."""
    files = [
        gzip.decompress((zoo / f"mnist/data/t10k-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    ]
    pictures = np.frombuffer(files[0], np.uint8, offset=16).reshape(-1, 28, 28).astype(np.float32) / 255
    return pictures[::5], np.frombuffer(files[1], np.uint8, offset=8)[::5]


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "int8"},
        {"quantize": "int16x8"},
        {"quantize": "dynamic"},
        {"quantize": "weight-only"},
        {"quantize": "dynamic-int4"},
        {"quantize": "int8", "override": [Override("none", "*output*")]},
    ],
    ids=lambda options: "-".join(map(str, options)) + "-" + options["quantize"],
)
def test_a_trained_lstm_keeps_its_accuracy(
    options: dict[str, Any], zoo: Path, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", digits[0][::20])
    made = convert(zoo / LSTM, tmp_path / "b", calibrate=tmp_path / "x.npy", **options)
    assert made.manifest.verification["layers"]["float32"] >= 1, (
        "the quantizer leaves the LSTM itself float, and we say so"
    )
    whole, quantized = accuracy(zoo / LSTM, *digits), accuracy(made.path, *digits)
    assert whole > 0.9
    assert abs(whole - quantized) <= 0.01, f"float {whole:.4f}, quantized {quantized:.4f}"
