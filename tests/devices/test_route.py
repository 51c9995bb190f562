"""What ``~/.ssh/config`` adds to an entry of the inventory."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from edgeferry_devices.inventory import Entry
from edgeferry_devices.route import resolve
from edgeferry_runtime.errors import UsageError

CONFIG = """\
Host board
    HostName 192.0.2.7
    User ann
    Port 2222
    IdentityFile ~/.ssh/board
    IdentitiesOnly yes
Host far
    ProxyJump gate
Host odd
    ProxyCommand nc %h %p
Host near
    ProxyJump none
Host same
    HostKeyAlias fleet
    UserKnownHostsFile ~/fleet_hosts
"""


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".ssh" / "config"
    path.write_text(CONFIG)
    return path


def test_defaults(home: Path) -> None:
    route = resolve(Entry("pi", "host"))
    assert (route.host, route.port, route.user) == ("host", 22, getpass.getuser())
    assert route.known_as == "host"
    assert not route.only_keys
    assert home / ".ssh" / "id_ed25519" in route.keys


def test_config_completes(config: Path) -> None:
    route = resolve(Entry("pi", "board"))
    assert (route.host, route.port, route.user) == ("192.0.2.7", 2222, "ann")
    assert route.keys == (config.parent / "board",)
    assert route.only_keys
    assert route.known_as == "[192.0.2.7]:2222"


def test_entry_wins(config: Path) -> None:
    route = resolve(Entry("pi", "board", "bob", 22, "~/mine"))
    assert (route.port, route.user) == (22, "bob")
    assert route.keys == (config.parent.parent / "mine",)


@pytest.mark.parametrize(("host", "option"), [("far", "ProxyJump gate"), ("odd", "ProxyCommand nc")])
def test_proxies_are_refused_not_ignored(config: Path, host: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"{option}.*not supported yet"):
        resolve(Entry("pi", host))


def test_proxy_none_is_no_proxy(config: Path) -> None:
    assert resolve(Entry("pi", "near")).host == "near"


def test_known_hosts_options(config: Path, home: Path) -> None:
    route = resolve(Entry("pi", "same"))
    assert route.known_as == "fleet"
    assert route.known_hosts[0] == home / "fleet_hosts"


def test_included_files_count_where_they_stand(config: Path) -> None:
    folder = config.parent / "conf d"
    folder.mkdir()
    (folder / "a").write_text("User everyone\nHost one\n  Port 1111\n")
    (folder / "b").write_text("Host one two\n  Port 2222\n")
    config.write_text('Include "conf d/*"\nHost two\n  Include = none/*\n  User second\nHost *\n  HostName h\n')
    one, two = resolve(Entry("pi", "one")), resolve(Entry("pi", "two"))
    assert (one.host, one.user, one.port) == ("h", "everyone", 1111)
    assert (two.host, two.user, two.port) == ("h", "everyone", 2222)


def test_inclusion_in_a_block_holds_for_the_block(config: Path) -> None:
    (config.parent / "extra").write_text("Port 1111\nHost other\n  User wrong\n")
    config.write_text("Host one\n  Include extra\n  User first\n")
    assert resolve(Entry("pi", "one")).port == 1111
    assert resolve(Entry("pi", "one")).user == "first"
    assert resolve(Entry("pi", "two")).port == 22


def test_endless_inclusion_is_refused(config: Path) -> None:
    config.write_text("Include config\n")
    with pytest.raises(UsageError, match="more than 16 deep"):
        resolve(Entry("pi", "one"))


@pytest.mark.parametrize("text", ["Host pi\n  Port x\n", "Match nonsense\n", "Host 'pi\n"])
def test_damaged_config_is_named(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match=r"\.ssh/config"):
        resolve(Entry("pi", "pi"))
