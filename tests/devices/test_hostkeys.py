"""Which host keys are trusted; the files are those that OpenSSH's own tools write."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_devices import hostkeys
from edgeferry_devices.hostkeys import HostKey
from edgeferry_runtime.errors import HostKeyError


@pytest.fixture
def keys(tmp_path: Path, make_key: Callable) -> list[tuple[HostKey, str]]:
    """Three keys, and each one's line after the host's name."""
    made = [make_key(tmp_path / f"key{i}") for i in range(3)]
    return [(HostKey(k.get_name(), k.asbytes()), f"{k.get_name()} {k.get_base64()}") for k in made]


@pytest.fixture
def known_hosts(home: Path) -> Path:
    return home / ".ssh" / "known_hosts"


def accepts(name: str, key: HostKey) -> bool:
    try:
        hostkeys.check("pi", key, hostkeys.trusted(name))
    except HostKeyError:
        return False
    return True


def test_unknown_key_is_refused_with_its_fingerprint(keys: list) -> None:
    key, _ = keys[0]
    with pytest.raises(HostKeyError, match=r"SHA256:.*ferry device trust pi") as caught:
        hostkeys.check("pi", key, hostkeys.trusted("host"))
    assert key.fingerprint in str(caught.value)
    assert caught.value.exit_code == 4
    assert not hostkeys.pinned_path().exists()


@pytest.mark.parametrize("port", [22, 2222])
def test_openssh_file_is_honoured(port: int, keys: list, known_hosts: Path) -> None:
    (key, line), (other, _), _ = keys
    name = hostkeys.lookup_name("host", port)
    known_hosts.write_text(f"# comment\n\nother,{name} {line} a comment\n")
    assert accepts(name, key)
    assert not accepts(name, other)
    assert not accepts(hostkeys.lookup_name("host", 3333), key)


def test_fingerprint_is_that_of_ssh_keygen(keys: list, tmp_path: Path, missing: Callable) -> None:
    if not shutil.which("ssh-keygen"):
        missing("ssh-keygen is not installed (package openssh-client)")
    shown = subprocess.check_output(["ssh-keygen", "-lf", tmp_path / "key0.pub"], text=True)
    assert keys[0][0].fingerprint in shown


def test_names_hashed_by_ssh_keygen(keys: list, known_hosts: Path, missing: Callable) -> None:
    if not shutil.which("ssh-keygen"):
        missing("ssh-keygen is not installed (package openssh-client)")
    (key, line), _, _ = keys
    known_hosts.write_text(f"host {line}\n[host]:2222 {line}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known_hosts], check=True, capture_output=True)
    assert "host" not in known_hosts.read_text()
    assert accepts("host", key)
    assert accepts("[host]:2222", key)
    assert not accepts("host2", key)


@pytest.mark.parametrize(
    ("patterns", "name", "fits"),
    [
        ("host", "host", True),
        ("HOST", "host", True),
        ("a,host,b", "host", True),
        ("*.lan", "pi.lan", True),
        ("*.lan,!pi.lan", "pi.lan", False),
        ("pi?", "pi4", True),
        ("[host]:2222", "[host]:2222", True),
        ("[host]:2222", "h:2222", False),
        ("[*]:2222", "[host]:2222", True),
        ("!host", "other", False),
        ("|1|broken", "host", False),
        ("|1|!!|!!", "host", False),
    ],
)
def test_patterns(patterns: str, name: str, fits: bool) -> None:
    assert hostkeys.matches(patterns, name) is fits


def test_changed_key_shows_both(keys: list, known_hosts: Path) -> None:
    (old, line), (new, _), _ = keys
    known_hosts.write_text(f"host {line}\n")
    with pytest.raises(HostKeyError, match="CHANGED") as caught:
        hostkeys.check("pi", new, hostkeys.trusted("host"))
    assert old.fingerprint in str(caught.value)
    assert new.fingerprint in str(caught.value)


def test_pin_replaces_and_wins(keys: list, known_hosts: Path) -> None:
    (old, line), (new, _), (third, _) = keys
    known_hosts.write_text(f"host {line}\n")
    hostkeys.pin("host", third)
    hostkeys.pin("other", old)
    hostkeys.pin("host", new)
    assert accepts("host", new)
    assert not accepts("host", old)
    assert not accepts("host", third)
    assert accepts("other", old)
    assert known_hosts.read_text() == f"host {line}\n"


def test_revoked_key_is_refused_even_when_pinned(keys: list, known_hosts: Path) -> None:
    (key, line), _, _ = keys
    known_hosts.write_text(f"@revoked * {line}\n")
    hostkeys.pin("host", key)
    with pytest.raises(HostKeyError, match="revoked"):
        hostkeys.check("pi", key, hostkeys.trusted("host"))


def test_broken_lines_are_no_keys(keys: list, known_hosts: Path) -> None:
    (key, line), _, _ = keys
    known_hosts.write_bytes(b"host\nhost ssh-ed25519 %%%\n\xff\xfe x y\n@cert-authority host " + line.encode() + b"\n")
    assert not accepts("host", key)
