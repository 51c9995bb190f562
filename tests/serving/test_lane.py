"""The way of a request through a lane: where it runs, and what becomes of those that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.serving import lane as lanes
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.settings import Execution

Pictures = np.ndarray[Any, Any]


@pytest.fixture
def lane(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    """The digits model, whose every run counts as brief, however busy this machine is."""
    monkeypatch.setattr(lanes, "BRIEF_MS", 60_000)
    found = Lane(bundles["int8"], None, Execution(workers=2))
    yield found
    found.close()


@pytest.fixture
def handed(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is handed to a thread."""
    found: list[Any] = []
    put = lane._crew.put
    monkeypatch.setattr(lane._crew, "put", lambda errand: (found.append(errand), put(errand)))
    return found


async def run(lane: Lane, pictures: Pictures, patience_s: float = 30.0) -> Pictures:
    deadline = asyncio.get_running_loop().time() + patience_s
    found = await lane.run({"image": pictures}, {"digit": False}, deadline)
    return found.result["digit"]


def test_what_is_brief_needs_no_thread_where_it_is_alone(lane: Lane, handed: list[Any], pictures: Pictures) -> None:
    async def in_turn() -> list[Pictures]:
        return [await run(lane, pictures[i : i + 1]) for i in (0, 0, 1)]

    first, same, other = asyncio.run(in_turn())
    assert len(handed) == 1
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert (lane.waiting, lane.finished) == (0, 3)


def test_those_that_come_at_the_same_time_share_the_threads(lane: Lane, handed: list[Any], pictures: Pictures) -> None:
    async def together() -> list[Pictures]:
        await run(lane, pictures[:1])
        return await asyncio.gather(*(run(lane, pictures[i : i + 1]) for i in range(8)))

    found = asyncio.run(together())
    assert len(handed) == 9
    assert len({each.tobytes() for each in found}) > 1


def test_other_shapes_are_tried_in_a_thread_first(lane: Lane, handed: list[Any], pictures: Pictures) -> None:
    async def in_turn() -> None:
        for rows in (1, 64, 64, 1):
            await run(lane, pictures[:rows])

    asyncio.run(in_turn())
    assert len(handed) == 3


def test_what_takes_long_stays_in_its_thread(
    lane: Lane, handed: list[Any], pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BRIEF_MS", 0)

    async def in_turn() -> None:
        for _ in range(3):
            await run(lane, pictures[:1])

    asyncio.run(in_turn())
    assert len(handed) == 3


def test_errors_come_wherever_it_runs(lane: Lane, pictures: Pictures) -> None:
    async def life() -> None:
        await run(lane, pictures[:1])
        with pytest.raises(DataError, match="holds NaN"):
            await run(lane, np.full_like(pictures[:1], np.nan))
        with pytest.raises(RefusedError) as late:
            await run(lane, pictures[:1], patience_s=0)
        assert late.value.kind is Kind.LATE

    asyncio.run(life())
    assert (lane.waiting, lane.finished) == (0, 2)
