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


def test_jump_hosts_are_completed_by_the_configuration_too(config: Path) -> None:
    config.write_text(f"Host gate\n  HostName 192.0.2.1\n  User ann\n  IdentityFile ~/.ssh/%n\n{CONFIG}")
    route = resolve(Entry("pi", "far"))
    assert route.via
    assert (route.via.host, route.via.user, route.via.device) == ("192.0.2.1", "ann", "ann@gate")
    assert route.via.keys == (config.parent / "gate",)
    assert route.via.via is None


def test_several_jump_hosts_lead_through_each_other(config: Path) -> None:
    config.write_text("Host far\n  ProxyJump ann@a:2222, ssh://b:23/,%r@c\nHost a\n  ProxyJump zero\n")
    way, names = resolve(Entry("pi", "far", "bob")), []
    while way.via:
        way = way.via
        names.append(way.device)
    me = getpass.getuser()
    assert names == ["bob@c", f"{me}@b:23", "ann@a:2222", f"{me}@zero"]


def test_jumping_in_a_circle_is_refused(config: Path) -> None:
    config.write_text("Host *\n  ProxyJump gate\n")
    with pytest.raises(UsageError, match=r"jumps through itself.*ProxyJump none"):
        resolve(Entry("pi", "far"))


def test_tokens_of_a_proxy_command(config: Path) -> None:
    config.write_text("Host far\n  HostName far.lan\n  ProxyCommand nc --as '%r' %n %h %p 100%% # not a comment\n")
    route = resolve(Entry("pi", "far", "bob", 2222))
    assert route.command == "nc --as 'bob' far far.lan 2222 100% # not a comment"
    assert route.via is None


def test_what_a_shell_would_read_otherwise_stands_in_no_command(config: Path) -> None:
    config.write_text("Host far\n  HostName far;id\n  ProxyCommand nc %h %p\n")
    with pytest.raises(UsageError, match="'far;id' cannot stand in ProxyCommand"):
        resolve(Entry("pi", "far"))


@pytest.mark.parametrize(
    ("lines", "way"),
    [
        ("ProxyCommand nc\n  ProxyJump gate", "command"),
        ("ProxyJump gate\n  ProxyCommand nc", "jump"),
        ("ProxyCommand none\n  ProxyJump gate", "direct"),
        ("ProxyJump none\n  ProxyCommand nc", "direct"),
    ],
)
def test_the_first_of_two_proxies_counts(config: Path, lines: str, way: str) -> None:
    config.write_text(f"Host far\n  {lines}\n")
    route = resolve(Entry("pi", "far"))
    assert ("command" if route.command else "jump" if route.via else "direct") == way


def test_paths_with_tokens_and_variables(config: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "100%lab")
    text = "IdentityFile %d/${SITE}/%r_%h\nIdentityFile none\nUserKnownHostsFile ~/.ssh/%k.hosts none\nPort 23 # old"
    config.write_text(text)
    route = resolve(Entry("pi", "far", "bob"))
    assert route.keys == (home / "100%lab" / "bob_far",)
    assert route.known_hosts[:-1] == (home / ".ssh" / "far.hosts",)
    assert route.port == 23


def test_match_sees_what_the_inventory_says(config: Path) -> None:
    config.write_text("Match user bob host *.lan\n  Port 2222\n")
    assert resolve(Entry("pi", "pi.lan", "bob")).port == 2222
    assert resolve(Entry("pi", "pi.lan", "ann")).port == 22


def test_only_the_default_identities(config: Path) -> None:
    config.write_text("IdentitiesOnly yes\n")
    route = resolve(Entry("pi", "far"))
    assert route.only_keys
    assert config.parent / "id_ed25519" in route.keys


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


@pytest.mark.parametrize(
    "text",
    [
        "Host pi\n  Port x\n",
        "Match nonsense\n",
        "Host 'pi\n",
        "ProxyCommand nc %h %x\n",
        "IdentityFile ${NOT_SET_ANYWHERE}/id\n",
        "CanonicalizeHostname yes\n",
        "Match exec true\n  Port 1\n",
    ],
)
def test_damaged_config_is_named(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match=r"\.ssh/config"):
        resolve(Entry("pi", "pi"))
