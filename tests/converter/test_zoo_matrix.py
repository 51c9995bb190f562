"""Trained models of others, all the way: every source to float and int8, TFLite and ONNX, verified."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_runtime import Bundle, load

pytestmark = [pytest.mark.zoo, pytest.mark.slow]

TINY = "mlperf-tiny/benchmark/training"
KWS = f"{TINY}/keyword_spotting/trained_models/kws_ref_model"
RESNET8 = f"{TINY}/image_classification/trained_models/pretrainedResnet.h5"
XCEPTION = "face-classification-keras/trained_models/fer2013_mini_XCEPTION.119-0.65.hdf5"
RESNET20 = "resnet-cifar10-torch/pretrained_models"
IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
VARIANTS = [("tflite", "none"), ("tflite", "int8"), ("onnx", "none"), ("onnx", "int8")]


@pytest.fixture(scope="module")
def natural(zoo: Path) -> np.ndarray:
    """64 crops of photographs: float32 of [64, 48, 48, 3] in 0..255."""
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    photographs = [image.open(file).convert("RGB") for file in sorted((zoo / "coral").glob("*.bmp"))]
    crops = []
    for i in range(64):
        photograph = photographs[i % len(photographs)]
        side = int(random.integers(min(photograph.size) // 4, min(photograph.size) + 1))
        x, y = (int(random.integers(0, extent - side + 1)) for extent in photograph.size)
        crops.append(np.asarray(photograph.crop((x, y, x + side, y + side)).resize((48, 48)), np.float32))
    return np.stack(crops)


@pytest.fixture(scope="module")
def clips(zoo: Path) -> tuple[np.ndarray, np.ndarray]:
    """503 spoken words: float32 of [503, 49, 10, 1], and their labels."""
    data = np.load(zoo / "mlperf-tiny/kws01_500.npz")
    real = (data["features_int8"].astype(np.float32) - data["zero_point"]) * data["scale"]
    return real.reshape(-1, 49, 10, 1).astype(np.float32), data["label"]


def find(zoo: Path, path: str) -> Path:
    """Return a file of the zoo, wherever its collection keeps it."""
    if (zoo / path).exists():
        return zoo / path
    return next((zoo / path.split("/", 1)[0]).rglob(Path(path).name))


def case(
    name: str, zoo: Path, natural: np.ndarray, clips: tuple[np.ndarray, np.ndarray]
) -> tuple[str, Any, np.ndarray]:
    """Return the source, its weights where it needs them, and typical inputs."""
    small = natural[:, 8:40, 8:40]
    if name == "resnet20":
        weights = next((zoo / RESNET20).glob("resnet20*.th"))
        data = ((small / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
        return f"{Path(__file__).parent / 'resnet_cifar.py'}:resnet20", weights, data
    if name == "xception":
        return str(find(zoo, XCEPTION)), None, (natural.mean(-1, keepdims=True) / 255 - 0.5) * 2
    if name == "kws":
        return str(find(zoo, KWS)), None, clips[0][::5]
    return str(find(zoo, RESNET8)), None, small


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, zoo: Path, natural: np.ndarray, clips: tuple[np.ndarray, np.ndarray]
) -> Any:
    """Make a bundle when it is asked for, and once."""
    folder = tmp_path_factory.mktemp("zoo")
    made: dict[tuple[str, str, str], Bundle] = {}

    def get(name: str, to: str, quantize: str) -> Bundle:
        key = (name, to, quantize)
        if key not in made:
            source, weights, data = case(name, zoo, natural, clips)
            np.save(folder / f"{name}.npy", data)
            output = folder / "-".join(key)
            made[key] = convert(
                source, output, to=to, quantize=quantize, calibrate=folder / f"{name}.npy", weights=weights
            )
        return made[key]

    return get


@pytest.mark.parametrize(("to", "quantize"), VARIANTS)
@pytest.mark.parametrize("name", ["resnet8", "xception", "kws", "resnet20"])
def test_models_of_others_convert_and_verify(name: str, to: str, quantize: str, bundles: Any) -> None:
    bundle = bundles(name, to, quantize)
    bundle.check()
    (error,) = bundle.manifest.verification["outputs"]
    assert error["cosine"] > (0.999999 if quantize == "none" else 0.96)
    if quantize == "int8":
        assert bundle.artifact.stat().st_size < 0.75 * bundle.manifest.verification["float_bytes"]


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_keyword_spotting_keeps_its_accuracy_in_int8(
    to: str, bundles: Any, clips: tuple[np.ndarray, np.ndarray]
) -> None:
    x, labels = clips

    def accuracy(quantize: str) -> float:
        with load(bundles("kws", to, quantize).path) as model:
            return float(np.mean([np.argmax(model(x[i : i + 1])) == labels[i] for i in range(len(x))]))

    whole, quantized = accuracy("none"), accuracy("int8")
    assert whole > 0.88
    assert abs(whole - quantized) <= 0.005, f"float {whole:.4f}, int8 {quantized:.4f}"


def test_an_old_onnx_model_keeps_its_accuracy_in_int8(zoo: Path, tmp_path: Path) -> None:
    source = next((zoo / "qonnx").rglob("mnist-conv/model.onnx"))
    raw = gzip.decompress((zoo / "mnist/data/t10k-images-idx3-ubyte.gz").read_bytes())
    pictures = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:1000]
    labels = np.frombuffer(
        gzip.decompress((zoo / "mnist/data/t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )[:1000]
    np.save(tmp_path / "x.npy", pictures[::10])
    bundle = convert(source, tmp_path / "b", to="onnx", quantize="int8", io_dtype="int8", calibrate=tmp_path / "x.npy")
    with bundle.load() as model:
        answers = [np.argmax(model(p[np.newaxis].astype(np.float32))) for p in pictures]
    assert np.mean(answers == labels) > 0.975
