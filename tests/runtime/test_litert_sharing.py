"""One copy of packed weights for several executors: the interpreter's own answers, or a reason why not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime import ModelPool, load
from edgeferry_runtime.engines import litert_native, litert_shared, litert_sharing
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.litert_shared import open_shared
from edgeferry_runtime.engines.litert_sharing import trial, try_sharing
from edgeferry_runtime.errors import EngineError, UnknownNameError
from edgeferry_runtime.feeds import random_feeds
from edgeferry_runtime.model import Model

pytest.importorskip("ai_edge_litert", reason="only ai-edge-litert shares packed weights")
ONE = Delegate("cpu", threads=1)


@pytest.fixture(scope="module")
def large(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is worth sharing."""
    path = tmp_path_factory.mktemp("large") / "large.tflite"
    path.write_bytes(tiny.tflite_dense(1024, 3))
    return path


@pytest.fixture
def shared() -> Iterator[Any]:
    """Opens a file in an interpreter and in one shared executor."""
    models: list[Model] = []

    def open_both(path: Path, signature: str | None = None) -> tuple[Model, Model]:
        model = load(path, delegate="cpu:1", signature=signature)
        (engine,) = open_shared(path, model._engine, ONE, 1)
        models.extend([model, Model(path, "tflite", engine)])
        return model, models[-1]

    yield open_both
    for model in models:
        model.close()


@pytest.mark.parametrize("kind", ["double", "int8", "pair", "dense", "second"])
def test_the_answers_are_those_of_the_interpreter(artifacts, shared, kind: str) -> None:
    model, other = shared(artifacts[f"{kind}.tflite"])
    for seed in range(3):
        feeds = random_feeds(model.inputs, seed)
        expected, found = model.run(feeds), other.run(feeds)
        assert list(expected) == list(found)
        for name, values in expected.items():
            assert values.dtype == found[name].dtype
            assert np.array_equal(values, found[name])


def test_every_signature_is_its_own(artifacts, shared) -> None:
    path = artifacts["two.tflite"]
    with load(path) as model:
        keys = model.signatures
    assert len(keys) == 2
    for key in keys:
        model, other = shared(path, key)
        assert other.signature == key
        feeds = random_feeds(model.inputs)
        for name, values in model.run(feeds).items():
            assert np.array_equal(values, other.run(feeds)[name])


def test_answers_belong_to_the_caller_and_inputs_may_have_strides(artifacts, shared) -> None:
    _, other = shared(artifacts["double.tflite"])
    first = other(np.arange(8, dtype=np.float32).reshape(4, 2).T[:1])
    other(np.zeros((1, 4), np.float32))
    assert first.tolist() == [[0, 4, 8, 12]]
    with pytest.raises(EngineError, match="was closed"):
        other.close() or other(np.zeros((1, 4), np.float32))


@pytest.mark.slow
def test_a_pool_packs_the_weights_once(large: Path) -> None:
    x = np.random.default_rng(0).random((1, 1024), np.float32)
    with load(large, delegate="cpu:1") as model, ModelPool(large, 3) as pool:
        assert pool.sharing == "the packed weights are there once"
        assert pool.execution.processor == "CPU, XNNPACK, 1 thread for each of 3"
        assert len({id(m._engine) for m in pool._models}) == 3
        for answer in pool.map([x] * 20):
            assert np.array_equal(answer, model(x))
        assert _mapped("memfd:weights") < 1.5 * large.stat().st_size
    assert _mapped("memfd:weights") == 0


def _mapped(name: str) -> int:
    """Return the bytes of memory, shared pages once, that mappings of this name take."""
    sizes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1].islower() or line[:1].isdigit():
            inside = name in line
        elif inside and line.startswith("Pss:"):
            sizes += int(line.split()[1]) * 1024
    return sizes


def test_python_goes_on_while_it_runs(tiny, tmp_path: Path, shared) -> None:
    path = tmp_path / "slow.tflite"
    path.write_bytes(tiny.tflite_dense(512, 24, 512))
    _, other = shared(path)
    x = np.zeros((512, 512), np.float32)
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    other(x)
    took = time.perf_counter() - begin
    done.set()
    thread.join()
    assert ticks[0] > 5 or took < 0.02


def test_what_is_not_shared_says_why(artifacts, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelPool(artifacts["double.tflite"], 2) as pool:
        assert "too little to share" in pool.sharing
    with ModelPool(large, 1) as pool:
        assert pool.sharing == "there is one model"
    with ModelPool(artifacts["double.onnx"], 2) as pool:
        assert pool.sharing == "one session runs all calls"
    with load(artifacts["batch.tflite"]) as model, pytest.raises(EngineError, match="of any size"):
        try_sharing(model.path, model._engine)
    monkeypatch.delattr(os, "memfd_create")
    with load(large) as model, pytest.raises(EngineError, match="needs a file in memory"):
        try_sharing(model.path, model._engine)


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ("import os; os.abort()", "ends the process with status -6 when it is shared"),
        ("import sys; sys.stdout.write('gives another y'); sys.exit(1)", "gives another y"),
    ],
)
def test_a_child_that_fails_leaves_interpreters(large, monkeypatch: pytest.MonkeyPatch, child: str, why: str) -> None:
    monkeypatch.setattr(litert_sharing, "child_command", lambda *_: [sys.executable, "-c", child])
    with ModelPool(large, 2) as pool:
        assert pool.sharing == f"each model packs weights of its own: the file {why}"
        assert pool(np.ones((1, 1024), np.float32)).shape == (1, 1024)


def test_the_child_finds_other_answers(artifacts, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = str(artifacts["dense.tflite"])
    assert trial(path, "cpu:1", "") == 0
    real = litert_shared.open_shared

    def wrong(*arguments: Any) -> list[Any]:
        engines = real(*arguments)
        for engine in engines:
            engine.run = lambda feeds, run=engine.run: [value + 1 for value in run(feeds)]
        return engines

    monkeypatch.setattr(litert_sharing, "open_shared", wrong)
    assert trial(path, "cpu:1", "") == 1
    assert "than in an interpreter" in capsys.readouterr().out


def test_a_library_that_keeps_no_weights_is_not_believed(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert_shared, "OPTIONS", "num_threads = {}\nunknown = {}\n")
    with load(artifacts["dense.tflite"]) as model, pytest.raises(EngineError, match="no weights that LiteRT puts"):
        open_shared(model.path, model._engine, ONE, 1)
    monkeypatch.setattr(litert_native, "OLDEST", (99, 0, 0))
    with load(artifacts["dense.tflite"]) as model, pytest.raises(EngineError, match="ai-edge-litert"):
        open_shared(model.path, model._engine, ONE, 1)


@pytest.mark.slow
def test_nothing_is_left_of_a_process_that_is_killed(large: Path, tmp_path: Path) -> None:
    program = (
        f"import os; from edgeferry_runtime import ModelPool; p = ModelPool({str(large)!r}, 2); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -9
    assert not list(tmp_path.iterdir())


def test_a_pool_of_one_signature(artifacts) -> None:
    path = artifacts["two.tflite"]
    with load(path) as model:
        key = model.signatures[1]
    with load(path, signature=key) as model, ModelPool(path, 2, signature=key) as pool:
        feeds = random_feeds(model.inputs)
        assert [m.signature for m in pool._models] == [key, key]
        for _ in range(3):
            answer = pool.run(feeds)
            assert all(np.array_equal(values, answer[name]) for name, values in model.run(feeds).items())
    with pytest.raises(UnknownNameError):
        ModelPool(path, 2, signature="none")
