"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeferry_runtime.serving.crew import Crew, Errand


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Two threads."""
    found = Crew(2, "test")
    yield found
    found.close()


def nothing() -> None:
    """Stand for what follows an errand."""


async def put(crew: Crew, work: Callable[[], Any]) -> Any:
    errand = Errand(work, nothing)
    crew.put(errand)
    return await asyncio.wait_for(errand.future, 30)


def test_each_gets_what_came_of_its_own(crew: Crew) -> None:
    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(put(crew, lambda i=i: i * i) for i in range(500)))

    assert asyncio.run(all_at_once()) == [i * i for i in range(500)]


def test_an_error_goes_to_who_waits_and_the_thread_lives_on(crew: Crew) -> None:
    async def both() -> tuple[Any, Any]:
        failed = await asyncio.gather(*(put(crew, lambda: 1 // 0) for _ in range(8)), return_exceptions=True)
        return failed, await put(crew, lambda: "still here")

    failed, later = asyncio.run(both())
    assert [type(error) for error in failed] == [ZeroDivisionError] * 8
    assert later == "still here"


def test_as_many_run_at_once_as_there_are_threads(crew: Crew) -> None:
    met = threading.Barrier(2)

    async def two() -> list[int]:
        return await asyncio.gather(*(put(crew, lambda: met.wait(30)) for _ in range(2)))

    assert sorted(asyncio.run(two())) == [0, 1]


def test_one_after_the_other_stays_with_the_thread_that_is_warm(crew: Crew) -> None:
    async def in_turn() -> set[str]:
        await asyncio.gather(put(crew, nothing), put(crew, nothing))
        return {await put(crew, lambda: threading.current_thread().name) for _ in range(50)}

    assert len(asyncio.run(in_turn())) == 1


def test_what_nobody_began_can_be_taken_back() -> None:
    crew, go, begun, done = Crew(1, "test"), threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        go.wait(30)

    async def life() -> None:
        running, waiting = Errand(first, nothing), Errand(lambda: done.append("late"), nothing)
        crew.put(running)
        await asyncio.to_thread(begun.wait, 30)
        crew.put(waiting)
        assert not crew.withdraw(running)
        assert crew.withdraw(waiting)
        assert not crew.withdraw(waiting)
        go.set()
        await running.future
        crew.close()

    asyncio.run(life())
    assert done == []


def test_after_it_is_told_even_where_nobody_waits_any_more(crew: Crew) -> None:
    async def life() -> None:
        go, after = threading.Event(), asyncio.Event()
        errand = Errand(lambda: go.wait(30), after.set)
        crew.put(errand)
        errand.future.cancel()
        go.set()
        await asyncio.wait_for(after.wait(), 30)

    asyncio.run(life())


def test_the_end_comes_after_all_work() -> None:
    crew, done = Crew(2, "ending"), []

    async def life() -> None:
        for i in range(100):
            crew.put(Errand(lambda i=i: done.append(i), nothing))
        await asyncio.to_thread(crew.close)
        with pytest.raises(RuntimeError, match="after shutdown"):
            crew.put(Errand(nothing, nothing))

    asyncio.run(life())
    assert sorted(done) == list(range(100))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ending")]
