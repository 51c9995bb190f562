"""Journals: what is begun and what comes of it is on the disk, and can be picked up."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices import journal, runs
from edgeferry_devices.journal import KEPT, Journal, begin, pick_up
from edgeferry_devices.outcome import Outcome
from edgeferry_devices.runs import Task
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, MissingFileError, UnknownNameError, UnreachableError, UsageError

ABC = ("a", "b", "c")


def failed(name: str) -> Outcome[int]:
    return Outcome(name, error=UnreachableError(name, "is gone", "look"))


def cut(task: Task, *outcomes: Outcome[int], finish: bool = False) -> str:
    with begin(task) as run:
        for outcome in outcomes:
            run.record(outcome)
        if finish:
            run.finish()
    return run.run.id


def test_what_is_left_is_picked_up() -> None:
    task = Task("deploy", (), ABC, {"delegate": "cpu"}, canary=2, jobs=3)
    run = cut(task, Outcome("b", 1), failed("a"))
    with pick_up(run[:8]) as again:
        assert again.run.task == task
        assert again.run.left == ("a", "c")
        assert (again.pace.canary, again.pace.jobs) == (1, 3)
        again.pace.ended(Outcome("a", 1))
    with pick_up() as again:
        assert again.run.left == ("c",)
        assert again.pace.canary == 0


def test_it_is_private_and_appended_to() -> None:
    cut(Task("deploy", (), ABC), Outcome("a", 1))
    (path,) = runs.paths()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = path.read_text()
    with pick_up() as again:
        again.record(Outcome("b", 1))
    assert path.read_text().startswith(before)
    assert [sorted(json.loads(line)) for line in path.read_text().splitlines()] == [
        ["at", "run", "schema", "task"],
        ["device", "error"],
        ["device", "error"],
    ]


def test_states() -> None:
    task = Task("deploy", (), ABC)
    every = [Outcome(name, 1) for name in ABC]
    assert [runs.find(cut(task, *every[:2])).state, runs.find(cut(task, *every, finish=True)).state] == [
        "cut",
        "complete",
    ]
    assert runs.find(cut(task, failed("a"), finish=True)).state == "failed"
    with begin(task) as living:
        assert runs.find(living.run.id).state == "running"
    with pick_up(cut(task, failed("a"), finish=True)) as again:
        again.record(Outcome("a", 1))
    assert runs.find(again.run.id).state == "cut"


def test_one_device_alone_leaves_no_journal() -> None:
    with begin(Task("deploy", (), ("a",))) as run:
        run.record(Outcome("a", 1))
        assert not run.kept
        assert run.run.left == ("a",)
    assert runs.paths() == []


def test_a_living_run_is_left_alone() -> None:
    with begin(Task("deploy", (), ABC)) as run:
        with pytest.raises(UsageError, match=f"run {run.run.id}: is being performed by another process"):
            pick_up()
        run.record(Outcome("a", 1))
    with pick_up() as again:
        assert again.run.left == ("b", "c")


def test_nothing_to_pick_up() -> None:
    with pytest.raises(UsageError, match="there is no run that is not complete"):
        pick_up()
    run = cut(Task("deploy", (), ABC), *(Outcome(name, 1) for name in ABC))
    with pytest.raises(UsageError, match="is complete; begin another with: ferry deploy"):
        pick_up(run)
    with pytest.raises(UsageError, match="there is no run that is not complete"):
        pick_up()
    for name in ("", "nothing", "../x", "-rf"):
        with pytest.raises(UnknownNameError, match="run: unknown name"):
            pick_up(name)


def test_a_name_that_fits_several_is_none() -> None:
    for _ in range(17):
        run = cut(Task("deploy", (), ABC))
    first = next(letter for letter in "0123456789abcdef" if sum(r.id[0] == letter for r in runs.runs()) > 1)
    with pytest.raises(UnknownNameError):
        pick_up(first)
    with pick_up(run) as found:
        assert found.run.id == run


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(lost=st.integers(0, 400))
def test_whatever_the_disk_lost_of_the_end_is_done_again(home: Path, lost: int) -> None:
    """A journal that is cut anywhere never counts a device that did not succeed, and goes on on a line of its own."""
    for path in runs.paths():
        path.unlink()
    cut(Task("deploy", (), ABC), Outcome("a", 1), failed("b"), Outcome("c", 1))
    (path,) = runs.paths()
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - lost)])
    try:
        with pick_up() as again:
            assert "b" in again.run.left
            again.record(Outcome("b", 1))
    except UsageError as error:
        assert "is no journal" in str(error) or "no run that is not complete" in str(error)
        return
    assert "b" not in runs.read(path).left


def test_damaged_journals_are_named_and_left_out() -> None:
    cut(Task("deploy", (), ABC))
    (path,) = runs.paths()
    good = path.read_text()
    for number, text in enumerate(("", "{}", "3\n", '{"task": {"bundles": 3, "devices": []}}', '{"task": {"x": 1}}')):
        path.with_name(f"20200101T000000.00000{number}Z-{number:016d}.jsonl").write_text(text)
    path.with_name("notes.txt").write_text("mine")
    said: list[str] = []
    assert [run.path for run in runs.runs(said.append)] == [path]
    assert len(said) == 5
    assert all("is no journal of a run" in line for line in said)
    assert path.read_text() == good


def test_old_ones_go_and_living_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT", 3)
    with begin(Task("deploy", (), ABC)) as living:
        last = [cut(Task("deploy", (), ABC)) for _ in range(5)]
        assert [run.id for run in runs.runs()] == [living.run.id, *last[-3:]]
    assert KEPT == 50


def test_the_bundle_has_to_be_the_same(bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    run = cut(Task.of("deploy", [bundle], ABC))
    with pick_up(run) as again:
        assert [each.id for each in again.run.bundles()] == [bundle.id]
    moved = bundle.path.rename(bundle.path.with_name("away"))
    with pytest.raises(MissingFileError, match=f"its bundle tiny is not at {bundle.path} any more; bring it back"):
        runs.find(run).bundles()
    make_bundle(padding=10).path.rename(bundle.path)
    with pytest.raises(BundleError, match=f"is another one now: [0-9a-f]{{12}}, and was {bundle.id[:12]}"):
        runs.find(run).bundles()
    bundle.path.rename(bundle.path.with_name("other"))
    moved.rename(bundle.path)
    (bundle.path / "labels.txt").write_text("spoilt\n")
    with pytest.raises(BundleError):
        runs.find(run).bundles()


def test_a_journal_without_a_file_writes_nothing() -> None:
    with Journal(runs.Run("x", "", Task("deploy", (), ABC), {}, Path())) as run:
        run.record(failed("a"))
        run.finish()
