"""The CIFAR networks of others in int8: how often they choose the class that their float source chooses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_runtime import load
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


@pytest.mark.parametrize("name", ["resnet20", "resnet44"])
def test_int8_chooses_as_its_float_source(name: str, zoo: Path, zoo_data: ModuleType, tmp_path: Path) -> None:
    """Four sets of 500 crops, and calibration on others. 97.6 % and 97.3 % are what int8 reaches, and no more."""
    np.save(tmp_path / "x.npy", zoo_data.cifar(zoo, 256, seed=2))
    source, weights = f"{HERE / 'resnet_cifar.py'}:{name}", next((zoo / WEIGHTS).glob(f"{name}*.th"))
    whole = convert(source, tmp_path / "float", weights=weights, shape={"image": (1, 3, 32, 32)})
    made = convert(whole.artifact, tmp_path / "int8", quantize="int8", calibrate=tmp_path / "x.npy")
    sets = [zoo_data.cifar(zoo, 500, seed) for seed in (1, 11, 12, 13)]
    agreements = [float(np.mean(classes(whole.path, x) == classes(made.path, x))) for x in sets]
    print(f"{name}: {', '.join(f'{agreement:.1%}' for agreement in agreements)} of 500")
    assert np.mean(agreements) >= 0.97
    assert min(agreements) >= 0.96
