"""Models: one way to call them, whatever the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import load
from edgeferry_runtime.errors import BundleError, DataError, EngineError, MissingFileError, UsageError
from edgeferry_runtime.tensors import Quantization

ONES = np.ones((1, 4), np.float32)
PAIR = {"a": np.full((2, 3), 1, np.float32), "b": np.full((2, 3), 5, np.float32)}
BOTH = pytest.mark.parametrize("suffix", ["tflite", "onnx"])


@BOTH
def test_one_input_goes_in_any_way(artifacts, suffix: str) -> None:
    with load(artifacts[f"double.{suffix}"]) as model:
        for answer in (
            model(ONES),
            model(x=ONES),
            model({"x": ONES}),
            model([[1, 1, 1, 1]]),
            model.run({"x": ONES})["y"],
        ):
            assert answer.tolist() == [[2, 2, 2, 2]]
            assert answer.dtype == np.float32


@BOTH
def test_several_go_by_name_and_come_by_name(artifacts, suffix: str) -> None:
    with load(artifacts[f"pair.{suffix}"]) as model:
        for answer in (model(**PAIR), model(PAIR), model.run(PAIR)):
            assert np.all(answer["total"] == 6)
            assert np.all(answer["gap"] == 4)


@BOTH
def test_facts(artifacts, suffix: str) -> None:
    model = load(str(artifacts[f"pair.{suffix}"]), delegate="cpu:2")
    assert {spec.name for spec in model.inputs} == {"a", "b"}
    assert {spec.name for spec in model.outputs} == {"total", "gap"}
    assert all(spec.shape == (2, 3) and spec.dtype == "float32" for spec in (*model.inputs, *model.outputs))
    assert (model.format, model.delegate) == (suffix, "cpu:2")
    assert model.engine in ("ai_edge_litert", "tflite_runtime", "tensorflow.lite", "onnxruntime")
    assert model.engine_version[0].isdigit()
    assert f"pair.{suffix}" in repr(model)


@BOTH
@pytest.mark.parametrize("names", [(["b", "a"], ["total", "gap"]), (["a", "b"], ["gap", "total"])])
def test_a_bundle_keeps_the_order_of_its_source(make_bundle, suffix: str, names) -> None:
    with make_bundle(f"pair.{suffix}", order=names).load() as model:
        assert [spec.name for spec in model.inputs] == names[0]
        assert [spec.name for spec in model.outputs] == names[1]
        assert list(model(PAIR)) == names[1]
        assert np.all(model(PAIR)["gap"] == 4)


def test_a_manifest_of_another_model_is_refused(make_bundle) -> None:
    bundle = make_bundle("pair.onnx", order=(["b"], ["total"]))
    with pytest.raises(BundleError, match=r"model\.onnx: has b, a where"):
        bundle.load()


@BOTH
def test_a_dynamic_batch_takes_any_size_again_and_again(artifacts, suffix: str) -> None:
    with load(artifacts[f"batch.{suffix}"]) as model:
        assert model.inputs[0].shape == (-1, 4)
        for size in (1, 7, 7, 2, 1):
            x = np.arange(size * 4, dtype=np.float32).reshape(size, 4)
            assert np.array_equal(model(x), 2 * x)
        with pytest.raises(DataError, match=r"float32\[\?x4\]"):
            model(np.ones((2, 5), np.float32))


def test_int8_tflite_is_scaled_for_the_caller(artifacts) -> None:
    x = np.float32([[-2, -0.5, 0, 3]])
    with load(artifacts["int8.tflite"]) as model:
        assert model.inputs[0].quantization == Quantization((pytest.approx(0.05),), (3,))
        real = model(x)
        assert real.dtype == np.float32
        np.testing.assert_allclose(real, 1 / (1 + np.exp(-x)), atol=0.01)
        stored = model(np.int8([[-37, -7, 3, 63]]), raw=True)
        assert stored.dtype == np.int8
        assert np.array_equal((stored.astype(np.float32) + 128) / 256, real)


def test_int8_onnx_is_scaled_by_its_metadata(artifacts) -> None:
    with load(artifacts["int8.onnx"]) as model:
        np.testing.assert_allclose(model(np.float32([[1, -1, 100, 0]])), [[1, -1, 6.2, 0]], atol=1e-6)
        assert model(np.int8([[1, 2, 3, 4]]), raw=True).tolist() == [[1, 2, 3, 4]]


@BOTH
def test_outputs_belong_to_the_caller(artifacts, suffix: str) -> None:
    with load(artifacts[f"double.{suffix}"]) as model:
        first = model(ONES)
        model(3 * ONES)
        assert first.tolist() == [[2, 2, 2, 2]]


@BOTH
def test_strided_and_read_only_inputs(artifacts, suffix: str) -> None:
    wide = np.arange(8, dtype=np.float32).reshape(1, 8)
    frozen = ONES.copy()
    frozen.flags.writeable = False
    with load(artifacts[f"double.{suffix}"]) as model:
        assert model(wide[:, ::2]).tolist() == [[0, 4, 8, 12]]
        assert model(frozen).tolist() == [[2, 2, 2, 2]]


@BOTH
def test_wrong_feeds_are_named(artifacts, suffix: str) -> None:
    with load(artifacts[f"pair.{suffix}"]) as model:
        with pytest.raises(DataError, match=r"'c'.*valid are"):
            model(a=PAIR["a"], c=PAIR["b"])
        with pytest.raises(DataError, match="no input b"):
            model(a=PAIR["a"])
        with pytest.raises(DataError, match="2 inputs by name"):
            model(PAIR["a"])
        with pytest.raises(DataError, match="2 inputs by name"):
            model(PAIR["a"], PAIR["b"])
        with pytest.raises(DataError, match="input b: takes"):
            model(a=PAIR["a"], b=ONES)
    with load(artifacts[f"double.{suffix}"]) as model, pytest.raises(DataError, match="takes one input"):
        model(ONES, ONES)


@BOTH
def test_a_closed_model_says_so(artifacts, suffix: str) -> None:
    model = load(artifacts[f"double.{suffix}"])
    model.close()
    model.close()
    with pytest.raises(EngineError, match="was closed"):
        model(ONES)


def test_what_cannot_be_loaded(artifacts, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load(tmp_path / "none.tflite")
    with pytest.raises(BundleError):
        load(tmp_path)
    with pytest.raises(UsageError, match="cpu"):
        load(artifacts["double.onnx"], delegate="npuu")


@BOTH
def test_loading_says_nothing(artifacts, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    with load(artifacts[f"dense.{suffix}"]) as model:
        model(np.ones((1, 16), np.float32))
    assert capfd.readouterr() == ("", "")


@BOTH
def test_a_closed_model_lets_go_of_its_file(artifacts, suffix: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        load(artifacts[f"double.{suffix}"]).close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
