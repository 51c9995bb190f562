"""Few at a time, and nothing any more once it was told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watching import children, comes

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.serving.folders import look
from edgeferry_runtime.serving.loading import AT_A_TIME, Loading
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.settings import Execution

Make = Callable[..., Bundle]
ONE = Execution(workers=1)


def test_two_releases_are_proven_at_a_time(tmp_path: Path, make: Make, watch: Any, run: Any) -> None:
    models = {f"m{i}": make(tmp_path / f"m{i}", i).path for i in range(4)}
    most, others = 0, children()

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(children() - others))
            await asyncio.sleep(0.001)

    async def life() -> None:
        counting = asyncio.create_task(count())
        async with watch(models) as server:
            counting.cancel()
            assert [await server.ask(name) for name in models] == [0, 1, 2, 3]

    run(life())
    assert most == AT_A_TIME


def test_what_is_loaded_again_has_files_of_its_own(tmp_path: Path, make: Make, run: Any, scratches: Path) -> None:
    seen = look(make(tmp_path / "m", 1).path)
    assert seen is not None

    async def life() -> None:
        loading = Loading()
        await loading.start()
        first = await loading.open("m", 1, await loading.stage(seen), ONE)
        second = await loading.again(first, replace(ONE, workers=2))
        assert second.bundle.artifact.samefile(first.bundle.artifact)
        await loading.let_go(first)
        assert (first.bundle.path.exists(), second.bundle.artifact.exists()) == (False, True)
        loading.stop()
        for work in (loading.stage(seen), loading.open("m", 2, second.bundle, ONE), loading.again(second, ONE)):
            with pytest.raises(RefusedError, match="the server: is about to stop") as refused:
                await work
            assert refused.value.kind is Kind.NOT_READY
        await loading.let_go(second)
        await loading.close()

    run(life())
    assert list(scratches.iterdir()) == []


def test_what_is_being_proven_is_broken_off(tmp_path: Path, make: Make, run: Any) -> None:
    seen = look(make(tmp_path / "m", 1).path)
    assert seen is not None

    async def life() -> None:
        loading = Loading()
        await loading.start()
        bundle, others = await loading.stage(seen), children()
        task = loading.begin(loading.open("m", 1, bundle, ONE))
        await comes(lambda: children() - others)
        loading.stop()
        await loading.settle()
        assert isinstance(task.exception(), EngineError)
        assert [path.name for path in loading.place.iterdir()] == [".edgeferry-lock"]
        await loading.close()

    run(life())


def test_what_hangs_in_its_probe_is_given_up(tmp_path: Path, make: Make, tiny: Any, run: Any) -> None:
    """The model counts to 2 ** 62."""
    x, y = (tiny.onnx_value(name, ["n", 4]) for name in "xy")
    inner = [tiny.onnx_node("Identity", ["c"], ["d"]), tiny.onnx_node("Sin", ["v"], ["w"])]
    states = [[tiny.onnx_value(f, [], "bool"), tiny.onnx_value(v, ["n", 4])] for f, v in ("cv", "dw")]
    body = tiny.onnx_graph(inner, [tiny.onnx_value("i", [], "int64"), *states[0]], states[1])
    limits = [tiny.onnx_constant("most", np.array(2**62)), tiny.onnx_constant("go", np.array(True))]
    loop = tiny.onnx_node("Loop", ["most", "go", "x"], ["y"], body=body)
    seen = look(make(tmp_path / "m", 1, model=tiny.onnx_model([loop], [x], [y], limits)).path)
    assert seen is not None

    async def life() -> None:
        loading = Loading(probe_s=0.5)
        await loading.start()
        bundle, others = await loading.stage(seen), children()
        with pytest.raises(EngineError, match=r"bundle plus: did not finish its probe in 0\.5 s; use a smaller"):
            await loading.open("m", 1, bundle, ONE)
        assert children() == others
        assert [path.name for path in loading.place.iterdir()] == [".edgeferry-lock"]
        await loading.close()

    run(life())
