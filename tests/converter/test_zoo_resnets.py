"""The CIFAR networks of others with int8 weights: how often they choose the class that their float source chooses."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_runtime import Bundle, load
from edgeferry_runtime.tensors import Array

pytestmark = [pytest.mark.zoo, pytest.mark.slow]

HERE = Path(__file__).parent
WEIGHTS = "resnet-cifar10-torch/pretrained_models"


@pytest.fixture(scope="module")
def zoo_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_data", HERE / "zoo_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classes(path: Path, pictures: Array) -> Array:
    with load(path) as model:
        return np.array([np.argmax(model(picture[np.newaxis])) for picture in pictures])


@dataclass(frozen=True)
class Network:
    """A network as float artifact, what it is calibrated with, four sets of 500 other crops, and their classes."""

    name: str
    artifact: Path
    calibrate: Path
    sets: list[Array]
    classes: list[Array]

    def agreements(self, made: Bundle) -> list[float]:
        found = [float(np.mean(classes(made.path, x) == y)) for x, y in zip(self.sets, self.classes, strict=True)]
        print(f"{self.name}: {', '.join(f'{agreement:.1%}' for agreement in found)} of 500")
        return found


@pytest.fixture(scope="module", params=["resnet20", "resnet44"])
def network(
    request: pytest.FixtureRequest, zoo: Path, zoo_data: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Network:
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    np.save(folder / "x.npy", zoo_data.cifar(zoo, 256, seed=2))
    source, weights = f"{HERE / 'resnet_cifar.py'}:{name}", next((zoo / WEIGHTS).glob(f"{name}*.th"))
    whole = convert(source, folder / "float", weights=weights, shape={"image": (1, 3, 32, 32)})
    sets = [zoo_data.cifar(zoo, 500, seed) for seed in (1, 11, 12, 13)]
    return Network(name, whole.artifact, folder / "x.npy", sets, [classes(whole.path, x) for x in sets])


def test_dynamic_and_gptq_choose_as_their_float_source(network: Network, tmp_path: Path) -> None:
    """The bar of 98 % on every set is met by the recipe that the reference gives for it."""
    made = convert(network.artifact, tmp_path / "b", quantize="dynamic", rounding="gptq", calibrate=network.calibrate)
    assert min(network.agreements(made)) >= 0.98


def test_int8_alone_falls_a_little_short(network: Network, tmp_path: Path) -> None:
    """97.6 % and 97.3 % are what it reaches, and no more; the benchmarks' page says why."""
    made = convert(network.artifact, tmp_path / "b", quantize="int8", calibrate=network.calibrate)
    agreements = network.agreements(made)
    assert np.mean(agreements) >= 0.97
    assert min(agreements) >= 0.96
