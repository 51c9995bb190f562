"""Every source lowers to artifacts that answer as it does, under its own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter.sources import Source, SourceSpec, open_source, signature
from edgeferry_runtime.numerics import compare_output
from edgeferry_runtime.tensors import Array

pytestmark = pytest.mark.slow


def random_feeds(source: Source, batch: int = 1, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {t.name: rng.random([batch if d < 0 else d for d in t.shape]).astype(t.dtype) for t in source.inputs}


def assert_same(expected: Mapping[str, Array], actual: Mapping[str, Array], snr_db: float = 60) -> None:
    assert list(expected) == list(actual)
    for name, reference in expected.items():
        assert reference.shape == actual[name].shape
        assert compare_output(name, reference, actual[name]).snr_db > snr_db


def check(source: Source, to: str, path: Path) -> None:
    source.lower(to, path)
    model = edgeferry_runtime.load(path)
    assert {t.name for t in model.inputs} == {t.name for t in source.inputs}
    feeds = random_feeds(source)
    actual = model.run(feeds)
    assert_same(source.run(feeds), {t.name: actual[t.name] for t in source.outputs})
    if to == "tflite":
        own = signature.read(path.read_bytes())
        assert own == signature.Signature(tuple(t.name for t in source.inputs), tuple(t.name for t in source.outputs))
        assert all(-1 not in t.shape for t in (*model.inputs, *model.outputs))
    else:
        assert [t.name for t in model.inputs] == [t.name for t in source.inputs]
        assert [t.name for t in model.outputs] == [t.name for t in source.outputs]
        assert [t.shape for t in model.inputs] == [t.shape for t in source.inputs]
        wider = random_feeds(source, batch=3)
        assert_same(source.run(wider), model.run(wider))


@pytest.mark.parametrize("name", ["cnn.keras", "two.keras", "cnn.h5", "savedmodel"])
@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_keras_family(keras_models: Path, tmp_path: Path, name: str, to: str) -> None:
    check(open_source(SourceSpec(keras_models / name)), to, tmp_path / "model")


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_exported_program(exported: Path, tmp_path: Path, to: str) -> None:
    check(open_source(SourceSpec(exported)), to, tmp_path / "model")
