"""Rows of several requests run together, and come back to whom they belong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DataError, EngineError
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.serving.batcher import Batcher, why_alone, why_mixed
from edgeferry_runtime.serving.coding import Coding
from edgeferry_runtime.serving.crew import Errand
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.settings import Execution
from edgeferry_runtime.tensors import Array, TensorSpec

Make = Callable[..., Bundle]
REAL = {"y": False}


class Counted:
    """A model that tells how many rows each run had."""

    def __init__(self, model: Model) -> None:
        self.model, self.runs = model, list[int]()

    def __call__(self, feeds: Mapping[str, Array], *, raw: bool = False) -> dict[str, Array]:
        self.runs.append(len(next(iter(feeds.values()))))
        return self.model.run(feeds, raw=raw)

    def batcher(self, most: int = 8, delay_s: float = 30) -> Batcher:
        return Batcher(Coding(self.model.inputs, self.model.outputs, self), most, delay_s)


@pytest.fixture(scope="module")
def models(tiny: Any, plus: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """``y = x + 1`` by how its batch is, and ``y = table[x]``, which fails for some values; their sums are exact."""
    folder = tmp_path_factory.mktemp("models")
    x, y = (tiny.onnx_value(name, ["n", "m"]) for name in "xy")
    table = tiny.onnx_constant("table", np.arange(16, dtype=np.float32))
    nodes = [tiny.onnx_node("Cast", ["x"], ["i"], to=7), tiny.onnx_node("Gather", ["table", "i"], ["y"])]
    mean = [tiny.onnx_node("ReduceMean", ["x", "axes"], ["m"]), tiny.onnx_node("Sub", ["x", "m"], ["y"])]
    rows, axes = [tiny.onnx_value(name, ["n", 4]) for name in "xy"], tiny.onnx_constant("axes", np.int64([0]))
    files = {
        "dynamic.onnx": plus(1),
        "fixed.onnx": plus(1, rows=4),
        "table.onnx": tiny.onnx_model(nodes, [x], [y], [table]),
        "mixing.onnx": tiny.onnx_model(mean, rows[:1], rows[1:], [axes]),
        "batch.tflite": tiny.tflite_double(dynamic=True),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name.partition(".")[0]: load(folder / name) for name in files}


def drain(batcher: Batcher, count: int, threads: int = 2) -> None:
    """Serve so many requests, by threads."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(count):
            pool.submit(batcher.serve)


REQUESTS = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["f4", "f8", "i4"])), min_size=1, max_size=12)


@pytest.mark.parametrize("kind", ["dynamic", "fixed", "batch"])
@settings(max_examples=40)
@given(requests=REQUESTS, most=st.integers(1, 9), threads=st.integers(1, 3))
def test_each_gets_what_it_gets_alone(
    models: dict[str, Model], kind: str, requests: list[tuple[int, str]], most: int, threads: int
) -> None:
    """Whatever rows and dtypes come together: bit by bit."""
    counted = Counted(models[kind])
    batcher = counted.batcher(most, delay_s=0.001)
    alone = Coding(counted.model.inputs, counted.model.outputs, counted.model.run)
    feeds = [
        {"x": (np.arange(rows * 4).reshape(rows, 4) + 100 * i).astype(dtype)}
        for i, (rows, dtype) in enumerate(requests)
    ]
    answers = [batcher.add(feed, REAL, 60) for feed in feeds]
    drain(batcher, len(requests), threads)
    for feed, answer in zip(feeds, answers, strict=True):
        assert answer.done()
        np.testing.assert_array_equal(answer.result().result["y"], alone.run(feed, REAL)["y"])
    assert sum(counted.runs) >= sum(rows for rows, _ in requests)


def test_rows_run_together(models: dict[str, Model]) -> None:
    """As many as fit, and the first waits for no more than are needed."""
    counted = Counted(models["dynamic"])
    batcher = counted.batcher(most=4)
    answers = [batcher.add({"x": np.full((rows, 4), i, "f4")}, REAL, 60) for i, rows in enumerate((1, 2, 1, 3, 1))]
    drain(batcher, 5, threads=1)
    assert counted.runs == [4, 4]
    assert [answer.result().result["y"][0, 0] for answer in answers] == [1, 2, 3, 4, 5]


def test_more_rows_than_a_batch_run_alone(models: dict[str, Model]) -> None:
    counted = Counted(models["dynamic"])
    batcher = counted.batcher(most=4)
    answers = [batcher.add({"x": np.zeros((rows, 4), "f4")}, REAL, 60) for rows in (2, 9, 2, 2)]
    drain(batcher, 4, threads=1)
    assert counted.runs == [2, 9, 4]
    assert [len(answer.result().result["y"]) for answer in answers] == [2, 9, 2, 2]


def test_the_first_waits_for_others_no_longer_than_it_may(models: dict[str, Model]) -> None:
    counted = Counted(models["dynamic"])
    for batcher, patience_s in ((counted.batcher(delay_s=0.05), 60), (counted.batcher(delay_s=60), 0.1)):
        started = time.monotonic()
        answer = batcher.add({"x": np.zeros((1, 4), "f4")}, REAL, patience_s)
        batcher.serve()
        assert 0.05 <= time.monotonic() - started < 30
        assert answer.result().queue_ms >= 50
    assert counted.runs == [1, 1]


def test_who_comes_while_the_first_waits_goes_along(models: dict[str, Model]) -> None:
    counted = Counted(models["dynamic"])
    batcher = counted.batcher(most=2)
    first = batcher.add({"x": np.zeros((1, 4), "f4")}, REAL, 120)
    waiting = threading.Thread(target=batcher.serve)
    waiting.start()
    second = batcher.add({"x": np.ones((1, 4), "f4")}, REAL, 120)
    waiting.join()
    assert (first.result().result["y"][0, 0], second.result().result["y"][0, 0], counted.runs) == (1, 2, [2])


def test_what_is_wrong_with_one_is_told_to_it_alone(models: dict[str, Model]) -> None:
    """A value that an input cannot hold, a shape that does not fit, and one that the engine itself refuses."""
    good = np.full((1, 4), 3, "f4")
    batcher = Counted(models["table"]).batcher(most=9, delay_s=0.05)
    bad = (np.full((1, 4), 99, "f4"), np.zeros(4, "f4"), np.full((1, 4), 1e300))
    answers = [batcher.add({"x": x}, REAL, 60) for x in (good, *bad, good + 1)]
    batcher.add({"z": good}, REAL, 60)
    unknown = batcher.add({"x": good}, {"w": False}, 60)
    drain(batcher, 7, threads=1)
    assert [answers[i].result().result["y"][0, 0] for i in (0, -1)] == [3, 4]
    for answer, kind in zip(answers[1:-1], (EngineError, DataError, DataError), strict=True):
        with pytest.raises(kind):
            answer.result()
    with pytest.raises(KeyError):
        unknown.result()


def test_other_tails_do_not_go_together(models: dict[str, Model]) -> None:
    counted = Counted(models["table"])
    batcher = counted.batcher(most=4)
    answers = [batcher.add({"x": np.full((1, width), width, "f4")}, REAL, 60) for width in (2, 3, 2, 3)]
    drain(batcher, 4, threads=1)
    assert counted.runs == [2, 2]
    assert [answer.result().result["y"].shape for answer in answers] == [(1, 2), (1, 3), (1, 2), (1, 3)]


def test_who_does_not_wait_any_more_is_left_out(models: dict[str, Model]) -> None:
    counted = Counted(models["dynamic"])
    batcher = counted.batcher(most=2)
    answers = [batcher.add({"x": np.full((1, 4), i, "f4")}, REAL, 60) for i in range(3)]
    assert answers[0].cancel()
    drain(batcher, 3, threads=1)
    assert (counted.runs, answers[1].result().result["y"][0, 0]) == ([2], 2)


def test_what_is_withdrawn_is_let_go(models: dict[str, Model]) -> None:
    batcher = Counted(models["dynamic"]).batcher(most=2)
    first, second = (batcher.add({"x": np.full((1, 4), i, "f4")}, REAL, 60) for i in range(2))
    assert batcher.withdraw(first)
    assert not batcher.withdraw(first)
    third = batcher.add({"x": np.ones((1, 4), "f4")}, REAL, 60)
    drain(batcher, 2, threads=1)
    assert (first.done(), second.result().result["y"][0, 0], third.result().result["y"][0, 0]) == (False, 2, 2)
    assert not batcher.withdraw(second)


def test_who_waits_alone_and_leaves_keeps_no_thread(models: dict[str, Model]) -> None:
    batcher = Counted(models["dynamic"]).batcher(most=2)
    answer = batcher.add({"x": np.zeros((1, 4), "f4")}, REAL, 120)
    waiting = threading.Thread(target=batcher.serve)
    waiting.start()
    batcher.withdraw(answer)
    waiting.join(50)
    assert not waiting.is_alive()


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, "float32")


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ([spec("x", -1, 4)], [spec("y", -1)], ""),
        ([spec("x", 8, 4), spec("z", 8)], [spec("y", 8)], ""),
        ([spec("x", 1, 4)], [spec("y", 1)], "its batch is fixed at one"),
        ([spec("x", -1), spec("z", 4)], [spec("y", -1)], "its inputs differ in their batch"),
        ([spec("x", -1), spec("z")], [spec("y", -1)], "z has no batch axis"),
        ([spec("x", -1)], [spec("y")], "y has no batch axis"),
        ([spec("x", -1)], [spec("y", 3)], "y does not have the batch of the inputs"),
    ],
)
def test_a_models_shapes_say_whether_it_has_a_batch(
    inputs: list[TensorSpec], outputs: list[TensorSpec], why: str
) -> None:
    assert why_alone(inputs, outputs) == why


def test_rows_that_change_each_other_are_found_out(models: dict[str, Model]) -> None:
    def tried(kind: str, *samples: float) -> str:
        coding = Coding(models[kind].inputs, models[kind].outputs, models[kind].run)
        return why_mixed(coding, [{"x": np.full((1, 4), sample, "f4")} for sample in samples])

    assert tried("dynamic", 1, 2) == tried("dynamic", 1) == tried("fixed", 1, 2) == ""
    assert tried("mixing", 1, 2) == tried("mixing", 1) == "its rows change each other's outputs"
    assert tried("table", 99).startswith("two rows do not run together: ONNX Runtime refuses it")


def test_a_lane_batches_where_it_may(tmp_path: Path, make: Make, plus_tflite: Any, watch: Any, run: Any) -> None:
    """What cannot be batched is said once, in words, and answers all the same."""
    make(tmp_path / "many", 1), make(tmp_path / "one", 2, model=plus_tflite(2), rows=1)
    execution = Execution(workers=1, max_batch=8, max_delay_ms=5)

    async def life() -> None:
        async with watch({"many": tmp_path / "many", "one": tmp_path / "one"}, execution=execution) as server:
            assert [line for line in server.said if "alone" in line] == [
                "one: requests run alone: its batch is fixed at one"
            ]
            answers = await asyncio.gather(*(server.ask(name) for name in ("many", "one") * 20))
            assert answers == [1, 2] * 20

    run(life())


def test_deadlines_and_the_queue_hold_in_a_batch(tmp_path: Path, make: Make, run: Any) -> None:
    bundle = make(tmp_path / "m", 1)

    async def life() -> None:
        lane = Lane(bundle.path, None, Execution(workers=1, queue=2, max_batch=8, max_delay_ms=60_000))
        loop, feeds = asyncio.get_running_loop(), {"x": np.zeros((1, 4), "f4")}
        long = asyncio.create_task(lane.run(feeds, REAL, loop.time() + 4))
        short = asyncio.create_task(lane.run(feeds, REAL, loop.time() + 60))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as refused:
            await lane.run(feeds, REAL, loop.time() + 60)
        assert refused.value.kind is Kind.BUSY
        for task in (long, short):
            assert (await task).result["y"][0, 0] == 1
        with pytest.raises(RefusedError) as refused:
            await lane.run(feeds, REAL, loop.time())
        assert (refused.value.kind, lane.waiting, lane.finished) == (Kind.LATE, 0, 2)
        lane.close()

    run(life())


@pytest.fixture
def blocked(tmp_path: Path, make: Make) -> Callable[[], AbstractContextManager[tuple[Lane, threading.Event]]]:
    """Make a lane of `queue` 4 whose only thread is busy until an event is set; in an event loop."""
    bundle = make(tmp_path / "m", 1)

    @contextmanager
    def begin() -> Iterator[tuple[Lane, threading.Event]]:
        lane, gate = Lane(bundle.path, None, Execution(workers=1, queue=4, max_batch=8)), threading.Event()
        lane._crew.put(Errand(gate.wait, bool))
        try:
            yield lane, gate
        finally:
            gate.set()
            lane.close()

    return begin


async def ask(lane: Lane, value: int, patience_s: float) -> float:
    deadline = asyncio.get_running_loop().time() + patience_s
    done = await lane.run({"x": np.full((1, 4), value, "f4")}, REAL, deadline)
    return float(done.result["y"][0, 0])


def test_nothing_is_left_of_those_that_are_late(blocked: Any, run: Any) -> None:
    """Whatever the queue has room for again does not wait behind them."""

    async def life() -> None:
        with blocked() as (lane, gate):
            for _ in range(5):
                late = await asyncio.gather(*(ask(lane, i, 0.02) for i in range(4)), return_exceptions=True)
                assert [error.kind for error in late if isinstance(error, RefusedError)] == [Kind.LATE] * 4
                assert (lane.waiting, len(lane._batcher._waiting), len(lane._crew._waiting)) == (0, 0, 0)
            last = [asyncio.create_task(ask(lane, i, 60)) for i in range(4)]
            await asyncio.sleep(0)
            last[1].cancel()
            await asyncio.wait([last[1]])
            gate.set()
            assert await asyncio.gather(*last[:1], *last[2:]) == [1, 3, 4]
            assert (lane.waiting, lane.finished) == (0, 3)

    run(life())


def test_who_was_answered_along_with_others_needs_no_thread(blocked: Any, run: Any) -> None:
    async def life() -> None:
        with blocked() as (lane, _):
            asking = [asyncio.create_task(ask(lane, i, 60)) for i in range(4)]
            await asyncio.sleep(0)
            assert len(lane._crew._waiting) == 4
            lane._batcher.serve()
            assert await asyncio.gather(*asking) == [1, 2, 3, 4]
            assert (lane.waiting, len(lane._crew._waiting)) == (0, 0)

    run(life())


def test_everybody_is_answered_who_stays(tmp_path: Path, make: Make, run: Any) -> None:
    """However many go away meanwhile, there is always a thread for those that stay."""
    bundle, dice = make(tmp_path / "m", 1), np.random.default_rng(3)

    async def one(lane: Lane, value: int, patience_s: float) -> None:
        try:
            assert await ask(lane, value, patience_s) == value + 1
        except RefusedError as error:
            assert (error.kind, patience_s < 1) == (Kind.LATE, True)

    async def life() -> None:
        lane = Lane(bundle.path, None, Execution(workers=3, queue=400, max_batch=4, max_delay_ms=1))
        for _ in range(5):
            patience = dice.choice([0.001, 0.003, 60], 200).tolist()
            await asyncio.wait_for(asyncio.gather(*(one(lane, i, s) for i, s in enumerate(patience))), 50)
        assert (len(lane._batcher._waiting), len(lane._crew._waiting)) == (0, 0)
        lane.close()

    run(life())
