"""``ferry device import``: hosts of Ansible's become devices, and what the user said stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeferry_devices import groups, inventory
from edgeferry_devices.importing import plan_import
from edgeferry_devices.inventory import Entry, Inventory
from edgeferry_devices.route import resolve
from edgeferry_devices.selecting import select
from edgeferry_runtime.errors import OutputExistsError, UsageError

Ferry = Callable[..., tuple[int, str, str]]

LIST = """
[site:children]
web
[web]
w[1:2].lan ansible_user=pi
[db]
db ansible_host=10.0.0.9 ansible_port=2222 ansible_ssh_common_args='-J ann@gate'
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A host list."""
    path = tmp_path / "hosts.ini"
    path.write_text(LIST)
    return path


def test_hosts_become_devices(ferry: Ferry, hosts: Path) -> None:
    code, out, err = ferry("device", "import", hosts, "--tag", "lab")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["db", "10.0.0.9:2222", "new", "lab,", "db"],
        ["w1.lan", "pi@w1.lan", "new", "lab,", "site,", "web"],
        ["w2.lan", "pi@w2.lan", "new", "lab,", "site,", "web"],
    ]
    assert select(["@site"]) == ["w1.lan", "w2.lan"]
    assert select(["@lab"]) == ["db", "w1.lan", "w2.lan"]
    route = resolve(inventory.get("db"))
    assert (route.host, route.port) == ("10.0.0.9", 2222)
    assert route.via is not None
    assert (route.via.host, route.via.user) == ("gate", "ann")


def test_a_dry_run_changes_nothing(ferry: Ferry, hosts: Path) -> None:
    code, out, err = ferry("device", "import", hosts, "--dry-run", "--json")
    assert (code, err) == (0, "nothing was changed\n")
    assert [each["state"] for each in json.loads(out)["devices"]] == ["new"] * 3
    assert json.loads(out)["devices"][0]["tags"] == ["site", "web"]
    assert inventory.read() == {}


def test_a_second_import_updates_what_came_from_there(ferry: Ferry, hosts: Path) -> None:
    inventory.add(Entry("mine", "h", tags=("web",)))
    assert ferry("device", "import", hosts)[0] == 0
    own = replace(inventory.get("db"), root="/data/ferry", password_env="DB", tags=("loud",))
    inventory.save(Inventory({**inventory.read(), "db": own}))
    groups.set_group("house", ["db", "w1.lan"])
    hosts.write_text(LIST.replace("10.0.0.9", "10.0.0.8").replace("[1:2]", "[2:3]").replace("[db]", "[store]"))
    code, out, err = ferry("device", "import", hosts)
    assert code == 0
    assert {line.split()[0]: line.split()[2] for line in out.splitlines()[1:]} == {
        "db": "changed",
        "w2.lan": "same",
        "w3.lan": "new",
    }
    assert err == f"w1.lan: is not in {hosts} any more; to forget it: ferry device remove w1.lan\n"
    found = inventory.load()
    assert found.devices["db"] == replace(own, host="10.0.0.8", source_tags=("store",))
    assert found.devices["mine"] == Entry("mine", "h", tags=("web",))
    assert "w1.lan" in found.devices
    assert found.groups == {"house": ("db", "w1.lan")}
    plan = plan_import(hosts)
    assert (plan.added, plan.changed, len(plan.same), plan.gone) == ((), (), 3, ("w1.lan",))


def test_a_name_from_elsewhere_is_refused_and_nothing_is_written(ferry: Ferry, hosts: Path, tmp_path: Path) -> None:
    inventory.add(Entry("w2.lan", "mine"))
    code, out, err = ferry("device", "import", hosts)
    assert (code, out) == (1, "")
    assert "device w2.lan: exists and was added by hand" in err
    assert list(inventory.read()) == ["w2.lan"]
    inventory.remove("w2.lan")
    plan_import(hosts).perform()
    other = tmp_path / "other.ini"
    other.write_text("db\n")
    with pytest.raises(OutputExistsError, match=f"exists and came from {hosts}"):
        plan_import(other)


@pytest.mark.parametrize("text", ["# nothing\n", "[web]\n", "h ansible_connection=local\n"])
def test_an_empty_list_is_refused(hosts: Path, text: str) -> None:
    hosts.write_text(text)
    with pytest.raises(UsageError, match="lists no host that is reached over SSH"):
        plan_import(hosts)


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        ("h ansible_password=hunter2\n", (), 2),
        ("h ansible_host={{x}}\n", (), 2),
        ("h\n", ("--tag", "a b"), 2),
        ("h\n", ("--tag", "@x"), 2),
        ("../up\n", (), 2),
        ("h x\n", (), 2),
    ],
)
def test_what_is_refused_is_one_line(ferry: Ferry, hosts: Path, text: str, options: tuple[str, ...], code: int) -> None:
    hosts.write_text(text)
    got, out, err = ferry("device", "import", hosts, *options)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("ferry: error: ")
    assert "hunter2" not in err
    assert inventory.read() == {}


def test_no_such_file(ferry: Ferry, tmp_path: Path) -> None:
    assert ferry("device", "import", tmp_path / "absent")[0] == 1
