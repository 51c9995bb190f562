"""One release: held during requests, proven before, and let go of after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.attended import Attended
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EngineError, UnknownFormatError, VerificationError
from edgeferry_runtime.serving.refusals import Kind, refuse
from edgeferry_runtime.serving.release import Release, open_release, prove
from edgeferry_runtime.serving.service import Call, Service
from edgeferry_runtime.serving.settings import Execution, Limits

Make = Callable[..., Bundle]
ONE = Execution(workers=1)


async def plus(release: Release, value: float = 0) -> float:
    x = np.full((1, 4), value, np.float32)
    done = await release.primary.run({"x": x}, {"y": False}, asyncio.get_running_loop().time() + 60)
    return float(done.result["y"][0, 0])


def test_a_release_is_closed_after_its_last_request(tmp_path: Path, make: Make, run: Any) -> None:
    bundle = make(tmp_path / "m", 1)

    async def life() -> None:
        release = open_release("m", 3, bundle, ONE)
        assert (release.version, release.manifest.name, list(release.lanes)) == (3, "plus", [""])
        with release.held(), release.held():
            retiring = asyncio.create_task(release.retire())
            await asyncio.sleep(0.02)
            assert not retiring.done()
            assert (release.users, await plus(release)) == (2, 1)
        await retiring
        with pytest.raises(RuntimeError, match="shutdown"):
            await plus(release)
        await release.retire()

    run(life())


def test_what_is_not_proven_is_told(tmp_path: Path, make: Make, tiny: Any) -> None:
    prove(make(tmp_path / "good", 1), ONE, Attended())
    with pytest.raises(VerificationError, match="bundle plus: computes something else than its source: y: "):
        prove(make(tmp_path / "wrong", 1, wrong=1), ONE, Attended())
    left = Attended()
    left.leave()
    with pytest.raises(EngineError, match="the process was killed"):
        prove(make(tmp_path / "good", 1), ONE, left)


def test_what_does_not_load_leaves_nothing_open(tmp_path: Path, make: Make) -> None:
    bundle = make(tmp_path / "m", 1, model=b"no model")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(UnknownFormatError, match="is neither TFLite nor ONNX"):
        open_release("m", 1, bundle, ONE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_model_that_fails_when_it_runs_fails_that_request_alone(
    tmp_path: Path, make: Make, tiny: Any, watch: Any, run: Any
) -> None:
    """``y = table[x]`` passes its probe, and has no row for some values."""
    make(tmp_path / "good", 1)
    x, y = tiny.onnx_value("x", ["n", 4]), tiny.onnx_value("y", ["n", 4])
    table = tiny.onnx_constant("table", np.arange(16, dtype=np.float32))
    nodes = [tiny.onnx_node("Cast", ["x"], ["i"], to=7), tiny.onnx_node("Gather", ["table", "i"], ["y"])]
    make(tmp_path / "bad", 0, model=tiny.onnx_model(nodes, [x], [y], [table]))

    async def life() -> None:
        async with watch({"good": tmp_path / "good", "bad": tmp_path / "bad"}) as server:
            service = Service(server.repository, Limits())
            feeds = [np.full((1, 4), value, np.float32) for value in (3, 99, 5)]
            answers = await asyncio.gather(
                *(service.infer(Call(name, {"x": x})) for name in ("bad", "good") for x in feeds),
                return_exceptions=True,
            )
            assert [a.outputs["y"][0, 0] for a in answers if not isinstance(a, BaseException)] == [3, 5, 4, 100, 6]
            error = refuse(answers[1], "model bad")
            assert (error.kind, error.subject) == (Kind.FAILED, "model bad")
            assert "indices element out of data bounds" in error.reason
            assert "/tmp" not in str(error)

    run(life())
