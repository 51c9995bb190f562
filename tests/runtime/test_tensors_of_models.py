"""What goes in and comes out: every dtype, state, and large inputs, on both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import load
from edgeferry_runtime.errors import DataError, EngineError
from edgeferry_runtime.feeds import random_feeds, zero_feeds
from edgeferry_runtime.tensors import TensorSpec

BOTH = pytest.mark.parametrize("suffix", ["tflite", "onnx"])
NUMBERS = ("float32", "float64", "float16", "bool", *(f"{sign}int{b}" for sign in ("", "u") for b in (8, 16, 32, 64)))
ONES = np.ones((1, 4), np.float32)


def identity(tiny, tmp_path: Path, suffix: str, dtype: str) -> Path:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(tiny.tflite_reshape(dtype) if suffix == "tflite" else tiny.onnx_identity(dtype))
    return path


@BOTH
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("raw", [False, True])
def test_numbers_of_every_dtype(tiny, tmp_path: Path, suffix: str, dtype: str, raw: bool) -> None:
    x = np.array([[0, 1, 2, 3]]).astype(dtype)
    with load(identity(tiny, tmp_path, suffix, dtype)) as model:
        assert model.inputs[0].dtype == dtype
        if (model.engine, dtype) == ("tflite_runtime", "uint16"):
            pytest.skip("tflite_runtime takes no uint16")
        answer = model(x, raw=raw)
        assert answer.dtype == dtype
        assert answer.ravel().tolist() == x.ravel().tolist()
        assert model(x[:, ::-1], raw=raw).ravel().tolist() == x.ravel().tolist()[::-1]
        assert model.run(random_feeds(model.inputs), raw=raw)


def test_complex_numbers(tiny, tmp_path: Path) -> None:
    with load(identity(tiny, tmp_path, "tflite", "complex64")) as model:
        assert model(np.complex128([[1j, 2, 3, 4]])).ravel().tolist() == [1j, 2, 3, 4]
        assert model(ONES).dtype == np.complex64


@BOTH
def test_texts(tiny, tmp_path: Path, suffix: str) -> None:
    with load(identity(tiny, tmp_path, suffix, "object")) as model:
        assert model.inputs[0].dtype == "object"
        for texts in (["a", "", "bc", "é"], np.array([["a", "", "bc", "é"]], object)):
            answer = model(np.reshape(texts, (1, 4)))
            told = [t.decode() if isinstance(t, bytes) else t for t in answer.ravel()]
            assert told == ["a", "", "bc", "é"]
        with pytest.raises(DataError, match="float32"):
            model(ONES)
        model.run(zero_feeds(model.inputs))


@BOTH
def test_floats_are_rounded_but_not_to_infinity(tiny, tmp_path: Path, suffix: str) -> None:
    with load(identity(tiny, tmp_path, suffix, "float16")) as model:
        assert model(np.float64([[0.1, 1, np.inf, -2]])).ravel().tolist() == [float(np.float16(0.1)), 1, np.inf, -2]
        with pytest.raises(DataError, match="float16"):
            model(np.float32([[1e6, 0, 0, 0]]))


def test_zeros_of_texts_are_empty() -> None:
    assert zero_feeds([TensorSpec("x", (-1, 2), "object")])["x"].tolist() == [["", ""]]


def test_a_sum_is_kept_until_it_is_reset(tiny, tmp_path: Path) -> None:
    path = tmp_path / "sum.tflite"
    path.write_bytes(tiny.tflite_sum())
    with load(path) as model:
        assert model.stateful
        assert [model(ONES)[0, 0] for _ in range(3)] == [1, 2, 3]
        model.reset()
        assert [model(ONES)[0, 0] for _ in range(2)] == [1, 2]
        (answer,) = model.predict_batches([ONES, ONES])
        assert answer[:, 0].tolist() == [3, 4]
    with pytest.raises(EngineError, match="was closed"):
        model.reset()


@BOTH
def test_reset_of_a_model_without_state_does_nothing(artifacts, suffix: str) -> None:
    with load(artifacts[f"double.{suffix}"]) as model:
        assert not model.stateful
        model.reset()
        assert model(ONES)[0, 0] == 2


@pytest.mark.zoo
def test_a_trained_lstm_is_reset(zoo: Path) -> None:
    path = zoo / "tflite-micro/tensorflow/lite/micro/examples/mnist_lstm/trained_lstm.tflite"
    with load(path) as model:
        assert model.stateful
        x = np.random.default_rng(0).random(model.inputs[0].shape, np.float32)
        first, second = model(x), model(x)
        assert not np.array_equal(first, second)
        model.reset()
        assert np.array_equal(model(x), first)


@BOTH
def test_a_fitting_input_is_handed_on_as_it_is(artifacts, suffix: str) -> None:
    """The engine is given the caller's own memory, whatever the shape and the way of calling."""
    for kind, x in (("double", ONES), ("batch", np.ones((3, 4), np.float32))):
        with load(artifacts[f"{kind}.{suffix}"]) as model:
            seen = []
            run = model._engine.run
            model._engine.run = lambda feeds, run=run, seen=seen: seen.extend(feeds) or run(feeds)
            again = type(model)(model.path, model.format, model._engine)
            again(x), again(x=x), again.run({"x": x}), again(x, raw=True)
            assert len(seen) == 4
            assert all(value is x for value in seen)


@pytest.mark.slow
@BOTH
def test_a_large_model_is_mapped_and_read_once(tiny, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large.{suffix}"
    path.write_bytes(tiny.tflite_dense(1024, 4) if suffix == "tflite" else tiny.onnx_dense(2048, 2))
    size = path.stat().st_size
    assert size > 16_000_000
    load(path).close()
    before = _characters_read()
    load(path).close()
    assert _characters_read() - before < (0.1 if suffix == "tflite" else 1.1) * size


def _characters_read() -> int:
    """Bytes that this process has read by system calls, from the disk or from the cache."""
    status = Path("/proc/self/io")
    if not status.is_file():
        pytest.skip("this system does not count what a process reads")
    return int(status.read_text().split()[1])
