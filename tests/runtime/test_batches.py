"""Streams, batch by batch, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_runtime import load
from edgeferry_runtime.errors import DataError, EngineError, UsageError

BOTH = pytest.mark.parametrize("suffix", ["tflite", "onnx"])


def rows(count: int) -> np.ndarray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


@BOTH
@pytest.mark.parametrize("kind", ["double", "batch"])
def test_a_stream_comes_out_as_it_went_in(artifacts, kind: str, suffix: str) -> None:
    with load(artifacts[f"{kind}.{suffix}"]) as model:

        @settings(max_examples=25, deadline=None)
        @given(st.integers(0, 23), st.integers(1, 9))
        def law(count: int, batch_size: int) -> None:
            answers = list(model.predict_batches(iter(rows(count)), batch_size))
            sizes = [len(answer) for answer in answers]
            assert sizes == [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)
            assert np.array_equal(np.concatenate([rows(0), *answers]), 2 * rows(count))

        law()


@BOTH
def test_the_stream_is_read_as_it_is_needed(artifacts, suffix: str) -> None:
    taken = []

    def stream() -> Iterator[np.ndarray]:
        for row in rows(100):
            taken.append(1)
            yield row

    with load(artifacts[f"batch.{suffix}"]) as model:
        answers = model.predict_batches(stream(), 8)
        assert not taken
        next(answers)
        next(answers)
        assert len(taken) == 16


@BOTH
def test_samples_with_a_batch_axis_and_by_name(artifacts, suffix: str) -> None:
    with load(artifacts[f"batch.{suffix}"]) as model:
        (answer,) = model.predict_batches([rows(1), rows(2)[1], {"x": rows(1)}])
        assert answer.tolist() == [[0, 2, 4, 6], [8, 10, 12, 14], [0, 2, 4, 6]]
        with pytest.raises(DataError, match=r"a sample of x: is float32\[5\], and a batch is x float32\[\?x4\]"):
            list(model.predict_batches([np.zeros(5, np.float32)]))
        with pytest.raises(DataError, match="has the inputs y; give a mapping of x"):
            list(model.predict_batches([{"y": rows(1)}]))
        with pytest.raises(UsageError, match="batch_size"):
            model.predict_batches([], 0)
    with pytest.raises(EngineError, match="was closed"):
        list(model.predict_batches([rows(1)]))


@BOTH
def test_a_fixed_batch_is_padded_and_cut(artifacts, suffix: str) -> None:
    """The tiny pair has a fixed first dimension of 2, and several inputs and outputs."""
    samples = [{"a": np.full(3, i, np.float32), "b": np.full(3, 10, np.float32)} for i in range(5)]
    with load(artifacts[f"pair.{suffix}"]) as model:
        answers = list(model.predict_batches(samples, 3))
        assert [len(answer["gap"]) for answer in answers] == [3, 2]
        assert [row[0] for answer in answers for row in answer["gap"]] == [10, 9, 8, 7, 6]
        with pytest.raises(DataError, match="one array for 2 inputs"):
            list(model.predict_batches([rows(1)]))


def test_int8_is_scaled_or_left(artifacts) -> None:
    with load(artifacts["int8.onnx"]) as model:
        (real,) = model.predict_batches([np.float32([1, -1, 0, 0])])
        np.testing.assert_allclose(real, [[1, -1, 0, 0]], atol=1e-6)
        (stored,) = model.predict_batches([np.int8([1, 2, 3, 4])], raw=True)
        assert stored.dtype == np.int8


def test_an_output_without_a_batch_axis_is_said(tiny, tmp_path: Path) -> None:
    node = tiny.onnx_node("ReduceSum", ["x"], ["y"], keepdims=0)
    path = tmp_path / "sum.onnx"
    path.write_bytes(tiny.onnx_model([node], [tiny.onnx_value("x", ["n", 4])], [tiny.onnx_value("y", None)]))
    with load(path) as loaded:
        with pytest.raises(DataError, match=r"output y: is \[\] for a batch of 2"):
            list(loaded.predict_batches(rows(2)))
        assert [a.tolist() for a in loaded.predict_batches(rows(2), 1)] == [[6.0], [22.0]]
