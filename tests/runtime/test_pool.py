"""Threads: one model shared by several, and several models of one file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import ModelPool, load
from edgeferry_runtime.errors import DataError, EngineError, MissingFileError, UsageError

BOTH = pytest.mark.parametrize("suffix", ["tflite", "onnx"])


def at_once(work: Callable[[int], None], threads: int = 4) -> None:
    """Call `work` in several threads that begin together; what one raises is raised."""
    gate = threading.Barrier(threads)

    def begin(number: int) -> None:
        gate.wait(10)
        work(number)

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(begin, range(threads)))


@BOTH
@pytest.mark.parametrize("pooled", [False, True])
def test_threads_get_their_own_answers(artifacts, suffix: str, pooled: bool) -> None:
    path = artifacts[f"batch.{suffix}"]
    with ModelPool(path, 2) if pooled else load(path) as model:

        def work(number: int) -> None:
            for i in range(200):
                x = np.full((1 + (number + i) % 3, 4), number * 1000 + i, np.float32)
                assert np.array_equal(model(x), 2 * x)

        at_once(work)


@BOTH
def test_a_model_closed_while_others_call_it_says_so(artifacts, suffix: str) -> None:
    for _ in range(5):
        model = load(artifacts[f"double.{suffix}"])

        def work(number: int, model=model) -> None:
            x = np.ones((1, 4), np.float32)
            if number == 0:
                model.close()
                return
            try:
                for _ in range(200):
                    assert model(x).tolist() == [[2, 2, 2, 2]]
            except EngineError as error:
                assert "was closed" in str(error)

        at_once(work)


@BOTH
def test_a_pool_is_called_as_a_model_is(artifacts, suffix: str) -> None:
    pair = {"a": np.full((2, 3), 1, np.float32), "b": np.full((2, 3), 5, np.float32)}
    with ModelPool(artifacts[f"pair.{suffix}"], 2) as pool:
        assert {spec.name for spec in pool.inputs} == {"a", "b"}
        for answer in (pool(pair), pool(**pair), pool.run(pair)):
            assert np.all(answer["total"] == 6)
        with pytest.raises(DataError, match="no input b"):
            pool(a=pair["a"])
        assert np.all(pool(pair)["gap"] == 4)
    pool.close()
    with pytest.raises(EngineError, match="was closed"):
        pool(pair)


@BOTH
def test_map_keeps_the_order_and_holds_little_of_the_stream(artifacts, suffix: str) -> None:
    taken: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for i in range(50):
            taken.append(i)
            yield np.full((1, 4), i, np.float32)

    with ModelPool(artifacts[f"double.{suffix}"], 3) as pool:
        answers = pool.map(stream())
        assert [int(answer[0, 0]) for _, answer in zip(range(5), answers, strict=False)] == [0, 2, 4, 6, 8]
        assert len(taken) <= 12
        answers.close()
        assert [int(answer[0, 0]) for answer in pool.map(stream())] == list(range(0, 100, 2))
        with pytest.raises(DataError):
            list(pool.map([np.zeros((1, 4), np.float32), np.zeros((1, 5), np.float32)]))


def test_each_engine_shares_what_it_can(artifacts) -> None:
    with ModelPool(artifacts["double.onnx"], 3) as pool:
        assert len(pool._models) == 1
        assert pool._free.qsize() == 3
    with ModelPool(artifacts["double.tflite"], 3) as pool:
        assert len(pool._models) == 3


def test_what_makes_no_pool(artifacts, tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size of 0"):
        ModelPool(artifacts["double.onnx"], 0)
    with pytest.raises(MissingFileError):
        ModelPool(tmp_path / "none.onnx", 2)
    path = tmp_path / "sum.tflite"
    path.write_bytes(tiny.tflite_sum())
    with pytest.raises(UsageError, match="keeps state"):
        ModelPool(path, 2)
