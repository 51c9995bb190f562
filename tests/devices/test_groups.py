"""Tags and groups."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices import groups, inventory
from edgeferry_devices.inventory import Entry, Inventory
from edgeferry_runtime.errors import UnknownNameError, UsageError

ODD = ["", "a b", "-rf", "../up", "a/b", "new\nline", 'say "it"', "it's", "$(id)", "@", "@web", "local", "all"]


@pytest.fixture(autouse=True)
def some() -> None:
    """Three devices."""
    inventory.save(Inventory({name: Entry(name, "h") for name in ("attic", "barn", "cellar")}))


def members(name: str) -> list[str]:
    return groups.members(inventory.load(), name)


def test_a_tag_and_a_group_of_one_name_are_one() -> None:
    groups.tag("attic", ["dry"])
    groups.set_group("dry", ["cellar"])
    assert members("dry") == ["cellar", "attic"]
    assert groups.of(inventory.load(), "attic") == ["dry"]


def test_groups_hold_groups_tags_and_local() -> None:
    groups.tag("attic", ["dry", "dry", "high"])
    groups.set_group("wet", ["cellar", "local"])
    groups.set_group("house", ["@wet", "@dry", "cellar"])
    assert members("house") == ["cellar", "local", "attic"]
    assert groups.names(inventory.load()) == ["dry", "high", "house", "wet"]
    assert groups.of(inventory.load(), "local") == ["house", "wet"]


def test_tags_are_taken_away_whoever_gave_them() -> None:
    found = inventory.load()
    imported = Entry("barn", "h", tags=("a", "b"), source="/hosts", source_tags=("b", "c"))
    inventory.save(Inventory({**found.devices, "barn": imported}))
    assert groups.untag("barn", ["b"]).all_tags == ("a", "c")
    with pytest.raises(UnknownNameError, match="device barn: unknown name 'b'; valid are a, c"):
        groups.untag("barn", ["b"])
    groups.untag("barn", ["a", "c"])
    with pytest.raises(UnknownNameError, match="there is none yet"):
        groups.untag("barn", ["a"])


def test_a_circle_is_refused_and_named() -> None:
    groups.set_group("a", ["attic"])
    groups.set_group("b", ["@a"])
    with pytest.raises(UsageError, match="@a: contains itself") as caught:
        groups.set_group("a", ["@b"])
    assert "(@a, @b, @a)" in str(caught.value)
    assert members("a") == ["attic"]


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(
        UnknownNameError, match=r"group: unknown name '@web'; there is none yet; or tag a device: ferry "
    ):
        members("web")
    groups.tag("attic", ["webs"])
    with pytest.raises(UnknownNameError, match="did you mean '@webs'"):
        members("web")
    with pytest.raises(UnknownNameError, match=r"group @g: unknown name 'atic'; did you mean 'attic'\?"):
        groups.set_group("g", ["atic"])
    for change in (groups.tag, groups.untag):
        with pytest.raises(UnknownNameError, match="did you mean 'barn'"):
            change("bam", ["x"])


def test_a_group_that_is_listed_is_not_removed() -> None:
    groups.set_group("a", ["attic"])
    groups.set_group("b", ["@a"])
    with pytest.raises(UsageError, match="is listed in @b"):
        groups.remove_group("a")
    groups.remove_group("b")
    groups.remove_group("a")
    with pytest.raises(UnknownNameError):
        groups.remove_group("a")
    assert inventory.load().groups == {}


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_refused(name: str) -> None:
    before = inventory.inventory_path().read_bytes()
    with pytest.raises(UsageError):
        groups.tag("attic", [name])
    with pytest.raises(UsageError):
        groups.set_group(name, ["attic"])
    with pytest.raises(UsageError):
        groups.set_group("fine", [f"@{name}"])
    assert inventory.inventory_path().read_bytes() == before


words = st.text(string.ascii_lowercase, min_size=1, max_size=2)


@given(
    listed=st.dictionaries(words, st.lists(st.sampled_from(["attic", "barn"]) | words.map("@{}".format), max_size=4))
)
def test_a_group_has_what_it_lists_or_is_refused(listed: dict[str, list[str]]) -> None:
    devices = {name: Entry(name, "h") for name in ("attic", "barn")}
    found = Inventory(devices, {name: tuple(each) for name, each in listed.items()})
    for name, each in listed.items():
        try:
            got = groups.members(found, name)
        except UsageError:
            continue
        assert len(got) == len(set(got))
        parts = [groups.members(found, m[1:]) if m.startswith("@") else [m] for m in each]
        assert set(got) == {device for part in parts for device in part}
