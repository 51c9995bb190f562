"""The inventory."""

from __future__ import annotations

import stat
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices import inventory
from edgeferry_devices.inventory import Address, Entry, Inventory, parse_address
from edgeferry_runtime.errors import OutputExistsError, UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pi@raspberrypi.local", Address("raspberrypi.local", "pi")),
        ("pi@10.0.0.7:2222", Address("10.0.0.7", "pi", 2222)),
        ("host", Address("host")),
        ("host:22", Address("host", port=22)),
        ("pi@[fe80::1%eth0]:2222", Address("fe80::1%eth0", "pi", 2222)),
        ("pi@[::1]", Address("::1", "pi")),
        ("::1", Address("::1")),
        ("user@realm@host", Address("host", "user@realm")),
        ("adb:R58M123ABC", Address("adb:R58M123ABC")),
        ("adb:192.168.1.5:5555", Address("adb:192.168.1.5:5555")),
        ("adb:[fe80::1%wlan0]:5555", Address("adb:[fe80::1%wlan0]:5555")),
        ("adb:adb-X9-AbC._adb-tls-connect._tcp", Address("adb:adb-X9-AbC._adb-tls-connect._tcp")),
    ],
)
def test_parse_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "pi@",
        "@host",
        "-oProxyCommand=x",
        "pi@-x",
        "host:",
        "host:0",
        "host:65536",
        "host:2²",
        "host:x",
        "pi@host name",
        "pi@ho\nst",
        "[::1",
        "[::1]x",
        "[host]:22:",
        "a/b",
        "pi@host;id",
        "-u@host",
        "[::1]:",
        "adb:",
        "adb:-s",
        "adb:a b",
        "adb:a;id",
        "adb:$(id)",
        "adb:a\nb",
        "adb:../a",
        "adb:ü",
        "adb:" + "x" * 129,
    ],
)
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


words = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)


@given(user=st.just("") | words, host=words, port=st.integers(0, 65535))
def test_addresses_survive_their_text(user: str, host: str, port: int) -> None:
    address = Address(host, user, port)
    assert parse_address(str(address)) == address


def test_starts_empty() -> None:
    assert inventory.read() == {}


def test_add_and_remove(home: Path) -> None:
    entry = Entry("pi", "raspberrypi.local", "pi", 2222, "/keys/id", "~/models")
    inventory.add(entry)
    inventory.add(Entry("board.2", "::1"))
    path = home / ".config/edgeferry/devices.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert inventory.get("pi") == entry
    assert inventory.remove("pi") == entry
    assert list(inventory.read()) == ["board.2"]
    assert [f.name for f in path.parent.iterdir()] == ["devices.toml"]


texts = st.text(st.characters(exclude_categories=("C",)), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(key=texts, root=texts)
def test_any_path_survives(home: Path, key: str, root: str) -> None:
    inventory.inventory_path().unlink(missing_ok=True)
    entry = Entry("pi", "host", key=key, root=f"/r{root}".rstrip("/").replace("..", ""))
    if entry.root.isprintable():
        inventory.add(entry)
        assert inventory.get("pi") == entry


def test_a_device_over_adb() -> None:
    inventory.add(Entry("phone", "adb:R58M123ABC"))
    assert inventory.get("phone").serial == "R58M123ABC"
    assert inventory.get("adb:192.168.1.5:5555").serial == "192.168.1.5:5555"
    assert inventory.get("phone").folder == "/data/local/tmp/edgeferry"
    assert Entry("phone", "adb:R58", root="/x").folder == "/x"
    assert not Entry("pi", "raspberrypi.local").serial
    assert Entry("pi", "raspberrypi.local").folder == inventory.DEFAULT_ROOT


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--key", {"key": "/k"}),
        ("--password-env", {"password_env": "PW"}),
        ("--jump", {"jump": "gate"}),
        ("--inside", {"inside": "proot:debian"}),
        ("--root", {"root": "~/x"}),
    ],
)
def test_a_device_over_adb_takes_nothing_of_ssh(option: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=option):
        inventory.add(Entry("phone", "adb:R58", **values))


def test_what_an_older_version_wrote_is_read(home: Path) -> None:
    path = inventory.inventory_path()
    path.parent.mkdir(parents=True)
    path.write_text(
        "# Written by: ferry device add\n\n[devices.pi]\nhost = 'h'\nuser = 'u'\nport = 2222\nroot = '~/r'\n"
    )
    assert inventory.load() == Inventory({"pi": Entry("pi", "h", "u", 2222, root="~/r")})


def test_tags_groups_and_jump_hosts_survive() -> None:
    entry = Entry(
        "pi", "h", jump="ann@gate:2222,[::1]:22", tags=("b", "a"), source="/hosts.ini", source_tags=("a", "c")
    )
    inventory.save(Inventory({"pi": entry}, {"web": ("pi", "@a")}))
    assert inventory.load() == Inventory({"pi": entry}, {"web": ("pi", "@a")})
    assert entry.all_tags == ("b", "a", "c")


def test_a_device_that_is_removed_leaves_its_groups() -> None:
    inventory.save(Inventory({n: Entry(n, "h") for n in ("pi", "pie")}, {"web": ("pi", "pie"), "own": ("pi",)}))
    inventory.remove("pi")
    assert inventory.load().groups == {"web": ("pie",), "own": ()}


@pytest.mark.parametrize("name", ["local", "all"])
def test_built_in_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="built in"):
        inventory.add(Entry(name, "host"))


def test_local_is_built_in() -> None:
    with pytest.raises(UsageError, match="built in"):
        inventory.remove("local")


def test_refuses_a_second_one_of_a_name() -> None:
    inventory.add(Entry("pi", "host"))
    with pytest.raises(OutputExistsError, match="ferry device remove pi"):
        inventory.add(Entry("pi", "other"))
    assert inventory.get("pi").host == "host"


def test_unknown_name_lists_the_valid_ones() -> None:
    inventory.add(Entry("kitchen", "host"))
    with pytest.raises(UnknownNameError, match=r"did you mean 'kitchen'\? valid are local, kitchen"):
        inventory.get("kitchn")


@pytest.mark.parametrize(
    ("name", "example"),
    [("attic", "attic USER@HOST"), ("attic.local", "attic USER@attic.local"), ("a b", "NAME USER@HOST")],
)
def test_an_unknown_name_points_to_the_command_that_adds_it(name: str, example: str) -> None:
    with pytest.raises(UnknownNameError, match=f"ferry device add {example}$"):
        inventory.get(name)


@pytest.mark.parametrize("variable", ["1X", "A B", "$PW", "X=Y", "hunter2"])
def test_a_password_is_named_and_never_kept(home: Path, variable: str) -> None:
    with pytest.raises(UsageError, match="not the password itself") as caught:
        inventory.add(Entry("pi", "host", password_env=variable))
    assert variable not in str(caught.value)
    inventory.add(Entry("pi", "host", password_env="PI_PASSWORD"))
    assert inventory.get("pi").password_env == "PI_PASSWORD"


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "a/b", "x" * 65, "ü", "a\n"])
def test_refuses_bad_names(name: str) -> None:
    with pytest.raises(UsageError):
        inventory.add(Entry(name, "host"))


@pytest.mark.parametrize("root", ["", "/", "~/", "~", "models", "/a/../b", "/a\nb", "//", "~bob/x"])
def test_refuses_bad_roots(root: str) -> None:
    with pytest.raises(UsageError):
        inventory.add(Entry("pi", "host", root=root))


@pytest.mark.parametrize(
    "text",
    [
        "no toml [",
        "devices = 3",
        "[devices.pi]\nuser = 'x'",
        "[devices.pi]\nhost = 'h'\nport = 'x'",
        "[devices.pi]\nhost = 'h'\ncolour = 'red'",
        "[devices.pi]\nhost = '-oProxyCommand=id'",
        "[devices.pi]\nhost = 'h'\nroot = '/'",
        "[devices.pi]\nhost = 'h'\npassword_env = 'a b'",
        "[devices]\npi = 3",
        "[devices.pi]\nhost = 'h'\ntags = 'web'",
        "[devices.pi]\nhost = 'h'\ntags = ['a b']",
        "[devices.pi]\nhost = 'h'\ntags = [3]",
        "[devices.pi]\nhost = 'h'\njump = '-oProxyCommand=id'",
        "[devices.pi]\nhost = 'h'\njump = \"gate\\nProxyCommand id\"",
        "groups = 3",
        "[groups]\nweb = 'pi'",
        "[groups]\nall = ['pi']",
    ],
)
def test_damaged_file_is_named(home: Path, text: str) -> None:
    path = home / ".config/edgeferry/devices.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=r"devices\.toml"):
        inventory.read()


def test_a_distribution_inside_is_remembered() -> None:
    inventory.add(Entry("phone", "192.0.2.1", port=8022))
    entry = replace(inventory.get("phone"), inside="proot:debian")
    inventory.update(entry)
    assert inventory.get("phone") == entry
    with pytest.raises(UnknownNameError):
        inventory.update(replace(entry, name="another"))
    with pytest.raises(UsageError, match="is not proot:DISTRIBUTION"):
        inventory.add(Entry("other", "192.0.2.1", inside="chroot:x"))
    path = inventory.inventory_path()
    path.write_text(path.read_text().replace("proot:debian", "proot:../debian"))
    with pytest.raises(UsageError, match="cannot be read"):
        inventory.read()
