"""Connections that cannot be made: each has its own error, and all of them end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import hostkeys
from edgeferry_devices.route import Route, resolve
from edgeferry_devices.ssh import Deadlines, connect, fetch_host_key
from edgeferry_runtime.errors import (
    AuthenticationError,
    DeviceError,
    DeviceTimeoutError,
    HostKeyError,
    UnreachableError,
)

QUICK = Deadlines(connect=1, banner=1, auth=5, channel=5, idle=5, attempts=2)
CALM = replace(QUICK, connect=5, banner=5)


@pytest.fixture
def route(server: Any) -> Route:
    return resolve(server.entry("/unused"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port where something listens that is no SSH server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def to(listener: socket.socket) -> Route:
    port = listener.getsockname()[1]
    return Route("pi", "127.0.0.1", port, "pi", (), False, f"[127.0.0.1]:{port}", ())


def test_connects(route: Route) -> None:
    transport = connect(route, CALM)
    try:
        assert transport.is_authenticated()
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
    finally:
        transport.close()


def test_shows_the_host_key_without_a_key_of_ours(server: Any, route: Route) -> None:
    assert fetch_host_key(replace(route, keys=(), user="nobody"), CALM) == server.host_key


def test_unknown_host_key(route: Route, server: Any) -> None:
    hostkeys.pinned_path().unlink()
    with pytest.raises(HostKeyError, match=r"unknown.*ferry device trust pi") as caught:
        connect(route, CALM)
    assert server.host_key.fingerprint in str(caught.value)
    assert not hostkeys.pinned_path().exists()


def test_changed_host_key(route: Route, server: Any, make_key: Callable, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    hostkeys.pin(route.known_as, hostkeys.HostKey(other.get_name(), other.asbytes()))
    before = hostkeys.pinned_path().read_text()
    with pytest.raises(HostKeyError, match="CHANGED"):
        connect(route, CALM)
    assert hostkeys.pinned_path().read_text() == before


def test_openssh_known_hosts_suffice(route: Route, server: Any, home: Path) -> None:
    hostkeys.pinned_path().rename(home / ".ssh" / "known_hosts")
    connect(route, CALM).close()


def test_wrong_key(route: Route, make_key: Callable, tmp_path: Path) -> None:
    make_key(tmp_path / "wrong")
    with pytest.raises(AuthenticationError, match=r"refused.*ssh-copy-id") as caught:
        connect(replace(route, keys=(tmp_path / "wrong",)), CALM)
    assert caught.value.exit_code == 4


def test_encrypted_key(route: Route, make_key: Callable, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", "secret")
    with pytest.raises(AuthenticationError, match=r"encrypted.*ssh-add"):
        connect(replace(route, keys=(tmp_path / "locked",)), CALM)


def test_encrypted_pem_key(route: Route, tmp_path: Path, missing: Callable) -> None:
    if not shutil.which("ssh-keygen"):
        missing("ssh-keygen is not installed (package openssh-client)")
    path = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-m", "PEM", "-N", "secret", "-f", path], check=True)
    with pytest.raises(AuthenticationError, match=r"encrypted.*ssh-add"):
        connect(replace(route, keys=(path,)), CALM)


def test_key_file_that_is_none(route: Route, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("not a key")
    with pytest.raises(AuthenticationError, match="is no private key"):
        connect(replace(route, keys=(tmp_path / "note",)), CALM)
    with pytest.raises(AuthenticationError, match="no key file"):
        connect(replace(route, keys=(tmp_path / "absent",)), CALM)


def test_default_identity_is_found(server: Any, home: Path) -> None:
    shutil.copy(server.key, home / ".ssh" / "id_ed25519")
    connect(resolve(replace(server.entry("/unused"), key="")), CALM).close()


def test_no_key_at_all(server: Any) -> None:
    with pytest.raises(AuthenticationError, match="no key was found"):
        connect(resolve(replace(server.entry("/unused"), key="")), CALM)


def test_agent_holds_an_encrypted_key(
    openssh: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: Callable,
    make_key: Callable,
    wait_until: Callable,
) -> None:
    """The key file given is locked, and the agent has it unlocked."""
    if not shutil.which("ssh-agent") or not shutil.which("ssh-add"):
        missing("ssh-agent is not installed (package openssh-client)")
    openssh.trust()
    sock = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until(sock.exists)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            subprocess.run(["ssh-add", "-q", openssh.key], check=True)
            make_key(tmp_path / "decoy")
            locked = tmp_path / "locked"
            shutil.copy(openssh.key, locked)
            shutil.copy(f"{openssh.key}.pub", f"{locked}.pub")
            locked.chmod(0o600)
            subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", locked], check=True, capture_output=True)
            connect(replace(resolve(openssh.entry("/unused")), keys=(locked,)), CALM).close()
            connect(resolve(replace(openssh.entry("/unused"), key="")), CALM).close()
        finally:
            agent.terminate()


def test_nothing_listens(listener: socket.socket) -> None:
    route = to(listener)
    listener.close()
    with pytest.raises(UnreachableError, match="refuses the connection") as caught:
        connect(route, QUICK)
    assert caught.value.exit_code == 4


def test_no_such_host() -> None:
    with pytest.raises(UnreachableError, match=r"no host is named 'no-such-host\.invalid'"):
        connect(Route("pi", "no-such-host.invalid", 22, "pi", (), False, "x", ()), QUICK)


def test_silent_server_times_out(listener: socket.socket) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="said nothing"):
        connect(to(listener), QUICK)
    assert time.monotonic() - started < 4


def test_full_backlog_times_out(listener: socket.socket) -> None:
    """A host that drops packets looks like one whose backlog is full: no answer to the first packet."""
    listener.listen(0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    try:
        with pytest.raises((DeviceTimeoutError, UnreachableError)):
            connect(to(listener), QUICK)
    finally:
        for filler in fillers:
            filler.close()


def answer_with(listener: socket.socket, banner: bytes) -> list[int]:
    """Greet whoever connects and hang up; return how often that happened."""
    served: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            served.append(1)
            with connection:
                connection.sendall(banner)

    threading.Thread(target=serve, daemon=True).start()
    return served


def test_server_that_hangs_up_is_asked_again(listener: socket.socket) -> None:
    served = answer_with(listener, b"")
    with pytest.raises(UnreachableError, match="does not speak SSH"):
        connect(to(listener), QUICK)
    assert len(served) == QUICK.attempts


def test_web_server_is_no_ssh_server(listener: socket.socket) -> None:
    answer_with(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(UnreachableError, match="does not speak SSH"):
        connect(to(listener), QUICK)


def test_busy_server_is_asked_until_it_answers(server: Any, listener: socket.socket) -> None:
    """The first connection is dropped before the banner, as MaxStartups does."""

    def serve() -> None:
        first, _ = listener.accept()
        first.close()
        connection, _ = listener.accept()
        with connection, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            back = threading.Thread(target=copy, args=(upstream, connection), daemon=True)
            back.start()
            copy(connection, upstream)

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    server.trust(port)
    connect(resolve(replace(server.entry("/unused"), port=port)), CALM).close()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_errors_are_one_line(listener: socket.socket) -> None:
    answer_with(listener, os.urandom(200) + b"\n")
    with pytest.raises(DeviceError) as caught:
        connect(to(listener), QUICK)
    assert "\n" not in str(caught.value)
