"""Versions side by side, loading by name, and new releases that are switched to once they are proven."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watching import comes

from edgeferry_runtime.bundle import MANIFEST, Bundle
from edgeferry_runtime.errors import BundleError, MissingFileError, UsageError
from edgeferry_runtime.serving.refusals import Kind, RefusedError

Make = Callable[..., Bundle]
Watch = Callable[..., Any]
Run = Callable[..., Any]


async def refused(work: Any) -> RefusedError:
    with pytest.raises(RefusedError) as found:
        await work
    return found.value


def test_versions_stand_side_by_side(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    """The highest is meant where none is named, until another one is made the default."""
    make(tmp_path / "a", 10), make(tmp_path / "b", 20)

    async def life() -> None:
        async with watch({"m@2": tmp_path / "b", "m@7": tmp_path / "a"}) as server:
            assert server.repository.versions("m") == [2, 7]
            assert [await server.ask("m", v) for v in (None, "", 2, "2", "2.0", "7")] == [10, 10, 20, 20, 20, 10]
            assert server.repository.set_default("m", "2.0").version == 2
            assert await server.ask("m") == 20
            with pytest.raises(RefusedError, match="there are: 2, 7"):
                server.repository.set_default("m", 3)

    run(life())


def test_a_version_is_given_once(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "a", 10)

    async def life() -> None:
        async with watch({"m@2": tmp_path / "a"}) as server:
            from edgeferry_runtime.serving.settings import Placed

            with pytest.raises(UsageError, match="m@2: is there twice"):
                await server.repository.place(Placed("m", tmp_path / "a", 2))
            assert (await server.repository.place(Placed("m", tmp_path / "a"))).version == 3

    run(life())


def test_a_new_release_in_a_plain_folder_answers(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    """`ferry convert -o` puts a new folder in the place of the old one."""
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            old = server.repository.find("m")
            new = make(tmp_path / "m", 2)
            assert await server.until("version 2") == f"m: version 2, release {new.id[:12]}, answers"
            assert await server.ask("m") == 2
            await comes(lambda: server.listed() == [("m", 2, "READY")])
            assert not old.bundle.path.exists()

    run(life())


def test_a_new_release_on_a_device_answers(release: Callable[..., Path], watch: Watch, run: Run) -> None:
    folder = release(1)

    async def life() -> None:
        async with watch({"m": folder}, keep_versions=2) as server:
            for number in (2, 3):
                release(number)
                await server.until(f"version {number},")
                assert await server.ask("m") == number
            assert [await server.ask("m", version) for version in (2, 3)] == [2, 3]
            await comes(lambda: server.repository.index()[0].version > 1)
            assert (await refused(server.ask("m", 1))).kind is Kind.NOT_FOUND
            release(2)
            await server.until("version 4,")
            assert await server.ask("m") == 2, "going back is a new version"

    run(life())


def test_a_repository_is_loaded_and_watched(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    """What cannot be served there does not keep the rest from answering."""
    folder = tmp_path / "all"
    make(folder / "a", 1), make(folder / ".hidden", 5), make(folder / "bad", 1, wrong=1)
    (folder / "no bundle").mkdir()

    async def life() -> None:
        async with watch({}, repository=folder) as server:
            assert server.listed() == [("a", 1, "READY"), ("bad", 1, "UNAVAILABLE")]
            assert "computes something else than its source" in server.repository.index()[1].reason
            assert server.repository.ready()
            make(folder / "b", 2)
            await server.until("b: version 1")
            assert await server.ask("b") == 2
            make(folder / "bad", 3)
            await server.until("bad: version 1")
            assert server.listed() == [("a", 1, "READY"), ("b", 1, "READY"), ("bad", 1, "READY")]

    run(life())


def test_a_client_loads_and_unloads_by_name(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    folder = tmp_path / "all"
    make(folder / "a", 1)

    async def life() -> None:
        async with watch({}, repository=folder) as server:
            repository = server.repository
            assert (await repository.load("a")).version == 1, "what answers is left as it is"
            named = await repository.load("a", as_name="b", workers=3)
            assert (named.name, named.version, named.execution.workers) == ("b", 1, 3)
            await repository.unload("a")
            assert (await refused(server.ask("a"))).kind is Kind.NOT_READY
            assert [(line.state.value, line.reason) for line in repository.index()] == [
                ("UNAVAILABLE", "unloaded"),
                ("READY", ""),
            ]
            await repository.unload("a")
            assert repository.ready()
            make(folder / "a", 2)
            await server.until("b: version 2")
            assert repository.versions("a") == [], "what was unloaded stays so"
            assert ((await repository.load("a")).version, await server.ask("a")) == (2, 2)

    run(life())


def test_what_is_in_flight_is_finished_before_an_unload(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    """Though whoever asked for it went away."""
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            old = server.repository.find("m")
            with old.held():
                unload = asyncio.create_task(server.repository.unload("m"))
                await asyncio.sleep(0.01)
                assert server.listed() == [("m", 1, "UNLOADING")]
                assert "is unloading" in (await refused(server.ask("m"))).reason
                unload.cancel()
                await asyncio.sleep(0.01)
                assert old.bundle.path.exists()
            await comes(lambda: server.listed() == [("m", 1, "UNAVAILABLE")])
            assert not old.bundle.path.exists()

    run(life())


def test_what_was_unloaded_comes_back_as_the_same_version(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "a", 10), make(tmp_path / "b", 20)

    async def life() -> None:
        async with watch({"m@1": tmp_path / "a", "m@2": tmp_path / "b"}) as server:
            await server.repository.unload("m", "2")
            assert (server.repository.versions("m"), await server.ask("m")) == ([1], 10)
            await server.repository.unload("m", 1)
            assert server.repository.ready()
            await server.repository.load("m")
            assert [await server.ask("m", v) for v in (None, 1, 2)] == [20, 10, 20]
            make(tmp_path / "b", 30, wrong=1)
            await server.until("refused")
            await server.repository.unload("m", 2)
            make(tmp_path / "b", 20)
            await server.until("version 2,", times=3)
            assert server.listed() == [("m", 1, "READY"), ("m", 2, "READY")], "what was refused is struck out"

    run(life())


def test_a_name_is_no_path(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "a", 1), make(tmp_path / "all" / "b", 1)

    async def life() -> None:
        async with watch({}, repository=tmp_path / "all") as server:
            for name in ("../a", "/etc", "a/b", "", ".", "-x", "a\nb", "x" * 300):
                error = await refused(server.repository.load(name))
                assert (error.kind, str(tmp_path) in str(error)) == (Kind.INVALID, False)
                assert (await refused(server.repository.load("b", as_name=name or "/"))).kind is Kind.INVALID

    run(life())


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    folder = tmp_path / "all"
    make(folder / "a", 1), make(folder / "b", 2)

    async def life() -> None:
        async with watch({}, repository=folder) as server:
            repository = server.repository
            for work, kind, said in (
                (repository.load("c"), Kind.NOT_FOUND, "there are: a, b"),
                (repository.load("a", as_name="b"), Kind.CONFLICT, "is another one already"),
                (repository.load("a", workers=65), Kind.INVALID, "give 1 to 64"),
                (repository.scale("a", None, 0), Kind.INVALID, "give 1 to 64"),
                (repository.unload("c"), Kind.NOT_FOUND, "there are: a, b"),
                (repository.unload("a", 9), Kind.NOT_FOUND, "version 9"),
            ):
                error = await refused(work)
                assert (error.kind, said in str(error)) == (kind, True)
            (folder / "b" / "model.onnx").write_bytes(b"other")
            error = await refused(repository.load("b"))
            assert error.kind is Kind.FAILED
            assert str(error).startswith("model 'b': model.onnx was changed after the bundle was made")
            assert await server.ask("b") == 2, "what answered goes on"

    run(life())


def test_nothing_is_loaded_by_name_without_a_repository(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "a", 1), make(tmp_path / "b", 1)

    async def life() -> None:
        async with watch({"a": tmp_path / "a"}) as server:
            error = await refused(server.repository.load("b"))
            assert (error.kind, error.fix) == (Kind.NOT_FOUND, "there are: a")

    run(life())


def test_scaling_keeps_the_version(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    """The workers stay for what follows; requests in flight finish where they began."""
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            old = server.repository.find("m")
            with old.held():
                scaled = await server.repository.scale("m", "1.0", 4)
                assert (scaled.version, scaled.execution.workers, await server.ask("m")) == (1, 4, 1)
                assert old.bundle.path.exists()
            assert await server.repository.scale("m", 1, 4) is scaled
            make(tmp_path / "m", 2)
            await server.until("version 2")
            assert server.repository.find("m").execution.workers == 4

    run(life())


def test_two_loads_of_a_name_come_one_after_the_other(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    folder = tmp_path / "all"
    make(folder / "a", 1)

    async def life() -> None:
        async with watch({}, repository=folder, poll_s=60) as server:
            make(folder / "a", 2)
            first, second = await asyncio.gather(server.repository.load("a"), server.repository.load("a"))
            assert first is second
            assert first.version == 2

    run(life())


def test_a_client_that_goes_away_breaks_nothing_off(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "all" / "a", 1)

    async def life() -> None:
        async with watch({}, repository=tmp_path / "all", poll_s=60) as server:
            make(tmp_path / "all" / "a", 2)
            load = asyncio.create_task(server.repository.load("a"))
            await asyncio.sleep(0.01)
            load.cancel()
            await server.until("a: version 2")

    run(life())


@pytest.mark.parametrize("missing", [True, False])
def test_what_the_user_named_has_to_be_there(
    tmp_path: Path, make: Make, watch: Watch, run: Run, scratches: Path, missing: bool
) -> None:
    make(tmp_path / "good", 1)
    if not missing:
        make(tmp_path / "bad", 1)
        (tmp_path / "bad" / MANIFEST).write_text("{")

    async def life() -> None:
        with pytest.raises(MissingFileError if missing else BundleError, match=f"{tmp_path}/bad"):
            async with watch({"good": tmp_path / "good", "bad": tmp_path / "bad"}):
                pass

    run(life())
    assert list(scratches.iterdir()) == []


def test_a_folder_that_vanishes_is_said_once(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            shutil.move(tmp_path / "m", tmp_path / "away")
            gone = await server.until("is gone")
            assert gone == f"m: {tmp_path}/m is gone; version 1 goes on answering"
            assert await server.ask("m") == 1
            shutil.move(tmp_path / "away", tmp_path / "m")
            make(tmp_path / "m", 2)
            await server.until("version 2")
            assert sum("is gone" in line for line in server.said) == 1

    run(life())
