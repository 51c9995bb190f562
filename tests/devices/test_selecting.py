"""Which devices are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices import groups, inventory
from edgeferry_devices.inventory import Entry, Inventory
from edgeferry_devices.selecting import select
from edgeferry_runtime.errors import UnknownNameError, UsageError


@pytest.fixture
def some() -> None:
    """Three devices, two of them in the garden."""
    devices = {name: Entry(name, "h") for name in ("attic", "barn", "shed")}
    inventory.save(Inventory(devices, {"garden": ("shed", "barn"), "empty": ()}))


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["barn", "attic"], ["barn", "attic"]),
        (["attic", "attic"], ["attic"]),
        (["@garden"], ["shed", "barn"]),
        (["barn", "@garden", "local"], ["barn", "shed", "local"]),
        (["all"], ["attic", "barn", "shed"]),
        (["local", "all", "pi@10.0.0.7:2222"], ["local", "attic", "barn", "shed", "pi@10.0.0.7:2222"]),
        ([], []),
    ],
)
def test_select(names: list[str], chosen: list[str]) -> None:
    assert select(names) == chosen


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bam", "did you mean 'barn'"),
        ("@gardn", "did you mean '@garden'"),
        ("@", "tag '': is not a name"),
        ("@@garden", "is not a name"),
        ("@empty", "@empty: stands for no device; tag one: ferry device tag DEVICE empty"),
        ("", "unknown name ''"),
        ("-rf", "unknown name '-rf'"),
        ("../up", r"unknown name '\.\./up'"),
        ('it\'s "a"', "unknown name"),
        ("new\nline", "unknown name"),
        ("@new\nline", "is not a name"),
        ("@../up", "is not a name"),
        ("pi@-oProxyCommand=id", "is not user@host"),
        ("pi@", "is not user@host"),
        ("@all", "has a meaning of its own"),
    ],
)
def test_what_cannot_be_meant(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        select(["attic", name])


def test_all_of_an_empty_inventory_is_no_device() -> None:
    with pytest.raises(UsageError, match="all: stands for no device; add one: ferry device add"):
        select(["all"])
    with pytest.raises(UnknownNameError, match="valid are local; or add it"):
        select(["pi"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(names=st.lists(st.sampled_from(["attic", "barn", "shed", "local", "@garden", "@dry", "all"])))
def test_order_is_kept_and_nothing_comes_twice(home: Path, names: list[str]) -> None:
    devices = {name: Entry(name, "h") for name in ("attic", "barn", "shed")}
    inventory.save(Inventory(devices, {"garden": ("shed", "barn")}))
    groups.tag("attic", ["dry"])
    chosen = select(names)
    assert len(chosen) == len(set(chosen))
    assert chosen == list(dict.fromkeys(device for name in names for device in select([name])))
