"""The inventory."""

from __future__ import annotations

import stat
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices import inventory
from edgeferry_devices.inventory import Address, Entry, parse_address
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


def test_local_is_built_in() -> None:
    with pytest.raises(UsageError, match="built in"):
        inventory.add(Entry("local", "host"))
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
    ],
)
def test_damaged_file_is_named(home: Path, text: str) -> None:
    path = home / ".config/edgeferry/devices.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=r"devices\.toml"):
        inventory.read()
