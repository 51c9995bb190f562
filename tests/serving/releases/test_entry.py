"""The numbers of versions, which one is meant, and when a folder is due."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.serving.entry import UNLOADED, Entry, Source
from edgeferry_runtime.serving.folders import Found
from edgeferry_runtime.serving.release import Release, State
from edgeferry_runtime.serving.settings import Execution

ROOT = Path("/")


@pytest.fixture(scope="module")
def named(make: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Release]:
    """Make a release of a version and an id."""
    bundle = make(tmp_path_factory.mktemp("entry") / "m", 1)
    return lambda version, id: Release("m", version, Bundle(bundle.path, bundle.manifest, id), {}, Execution())


STEPS = st.lists(st.tuples(st.sampled_from(["come", "refuse", "unload"]), st.integers(0, 1)), max_size=20)


@given(steps=STEPS)
def test_a_new_release_never_takes_an_older_number(
    named: Callable[[int, str], Release], steps: list[tuple[str, int]]
) -> None:
    entry = Entry("m", [Source(ROOT), Source(ROOT)])
    given_to: dict[int, str] = {}
    for i, (step, which) in enumerate(steps):
        source, id = entry.sources[which], f"release {i}"
        if step == "unload" and entry.releases:
            release = entry.withdraw(max(entry.releases))
            entry.list_as(release.version, State.UNAVAILABLE, UNLOADED, release.bundle.id)
            assert entry.number(source, release.bundle.id) == release.version
        elif step != "unload":
            number = source.pending = entry.number(source, id)
            assert number not in given_to
            if step == "come":
                entry.admit(source, named(number, id))
                given_to[number] = id
            else:
                entry.list_as(number, State.UNAVAILABLE, "bad")
        assert (entry.default in entry.releases) if entry.releases else entry.default is None
        assert set(entry.releases) <= set(entry.listings)
    assert {v: r.bundle.id for v, r in entry.releases.items()}.items() <= given_to.items()


def test_the_default_moves_with_its_folder(named: Callable[[int, str], Release]) -> None:
    stable, canary = Source(ROOT, 1), Source(ROOT, 2)
    entry = Entry("m", [stable, canary])
    for source, id in ((stable, "a"), (canary, "b")):
        entry.admit(source, named(entry.number(source, id), id))
    assert entry.default == 2
    entry.admit(stable, named(entry.number(stable, "c"), "c"))
    assert (entry.default, stable.versions) == (2, [1, 3]), "the other folder's new release does not take its place"
    entry.admit(canary, named(entry.number(canary, "d"), "d"))
    assert entry.default == 4
    entry.withdraw(4)
    assert entry.default == 3


def test_a_folder_is_due_when_it_has_settled() -> None:
    source, one, two = Source(ROOT), Found(ROOT, False, ()), Found(ROOT, True, ())
    assert [source.due(found, 0) for found in (one, one)] == [False, True]
    source.tried = one
    assert [source.due(found, 0) for found in (one, two, one, two, two)] == [False, False, False, False, True]
    source.tried = two
    assert not source.due(two, 0)
    source.again_at = 5
    assert [source.due(two, now) for now in (4, 5)] == [False, True]
    assert [source.due(None, 0) for _ in range(2)] == [False, True]
