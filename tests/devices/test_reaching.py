"""The ways to a board that is not simply there: jump hosts, commands, locks, and servers that are busy or stuck."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest

from edgeferry_devices import hostkeys, identities, inventory
from edgeferry_devices.asking import Secrets
from edgeferry_devices.inventory import Entry
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.route import resolve
from edgeferry_devices.ssh import Deadlines, connect, fetch_host_key
from edgeferry_runtime.errors import (
    AuthenticationError,
    DeviceError,
    DeviceTimeoutError,
    HostKeyError,
    UnreachableError,
)

CALM = Deadlines(connect=5, banner=5, auth=5, channel=5, idle=2, attempts=2)
FORWARD = """\
import os, socket, sys, threading
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while chunk := far.recv(1 << 16):
        os.write(1, chunk)
threading.Thread(target=back, daemon=True).start()
while chunk := os.read(0, 1 << 16):
    far.sendall(chunk)
"""


@pytest.fixture
def config(home: Path) -> Callable[[str], None]:
    def write(text: str) -> None:
        (home / ".ssh" / "config").write_text(text)

    return write


@pytest.fixture
def gate(start_openssh: Callable) -> Any:
    """A jump host, not trusted yet."""
    return start_openssh()


def block(server: Any, *lines: str) -> str:
    head = f"HostName 127.0.0.1\nPort {server.port}\nUser {server.user}\nIdentityFile {server.key}\nIdentitiesOnly yes"
    return "\n  ".join([head, *lines]) + "\n"


def lines_of(count: int) -> list[threading.Thread]:
    """Return the connections that are open, once there are no more than `count`."""
    for _ in range(50):
        found = [t for t in threading.enumerate() if isinstance(t, paramiko.Transport)]
        if len(found) <= count:
            break
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("jumps", ["gate", "again, gate"])
def test_through_jump_hosts(openssh: Any, gate: Any, config: Callable, tmp_path: Path, jumps: str) -> None:
    again = block(gate).replace("127.0.0.1", "localhost") + "HostKeyAlias gate2\n"
    config(f"Host board\n{block(openssh, f'ProxyJump {jumps}')}Host gate\n{block(gate)}Host again\n{again}")
    before = len(lines_of(0))
    openssh.trust()
    gate.trust()
    hostkeys.pin("gate2", gate.host_key)
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    device = RemoteDevice(Entry("pi", "board"), CALM)
    try:
        done = device.exec(["sh", "-c", "echo $SSH_CONNECTION"])
        assert done.stdout.split()[3] == str(openssh.port).encode()
        device.put(tmp_path / "big", str(tmp_path / "there"))
        assert (tmp_path / "there").read_bytes() == (tmp_path / "big").read_bytes()
        assert len(lines_of(0)) == before + 2 + jumps.count(",")
    finally:
        device.close()
    assert len(lines_of(before)) == before


def test_each_jump_host_is_checked_before_it_hears_anything(openssh: Any, gate: Any, config: Callable) -> None:
    config(f"Host board\n{block(openssh, 'ProxyJump gate')}Host gate\n{block(gate)}")
    openssh.trust()
    called = f"{gate.user}@gate"
    with pytest.raises(HostKeyError, match=f"^{called}: .*ferry device trust {called}") as caught:
        connect(resolve(Entry("pi", "board")), CALM)
    assert gate.host_key.fingerprint in str(caught.value)
    way = resolve(inventory.get(called))
    hostkeys.pin(way.known_as, fetch_host_key(way, CALM))
    connect(resolve(Entry("pi", "board")), CALM).close()


def test_the_key_of_a_board_is_shown_through_its_jump_host(openssh: Any, gate: Any, config: Callable) -> None:
    config(f"Host board\n{block(openssh, 'ProxyJump gate')}Host gate\n{block(gate)}")
    gate.trust()
    assert fetch_host_key(resolve(Entry("pi", "board")), CALM) == openssh.host_key


@pytest.mark.parametrize(("option", "port"), [("AllowTcpForwarding no\n", 0), ("", 1)])
def test_a_jump_host_that_leads_nowhere(start_openssh: Callable, config: Callable, option: str, port: int) -> None:
    gate = start_openssh(option)
    gate.trust()
    board = replace(gate, port=port or gate.port + 1)
    config(f"Host board\n{block(board, 'ProxyJump gate')}Host gate\n{block(gate)}")
    with pytest.raises(UnreachableError, match=f"pi: its jump host {gate.user}@gate cannot reach 127.0.0.1 port"):
        connect(resolve(Entry("pi", "board")), CALM)


def test_a_silent_server_behind_a_jump_host(gate: Any, config: Callable) -> None:
    gate.trust()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        board = replace(gate, port=silent.getsockname()[1])
        config(f"Host board\n{block(board, 'ProxyJump gate')}Host gate\n{block(gate)}")
        started = time.monotonic()
        with pytest.raises(DeviceTimeoutError, match="said nothing"):
            connect(resolve(Entry("pi", "board")), replace(CALM, banner=0.5))
        assert time.monotonic() - started < 4


@pytest.fixture
def by_command(openssh: Any, config: Callable, tmp_path: Path) -> Iterator[Callable[..., RemoteDevice]]:
    """Reach the server by a ProxyCommand."""
    openssh.trust()
    opened: list[RemoteDevice] = []
    script = tmp_path / "my forwarder.py"
    script.write_text(FORWARD)

    def reach(command: str = "", deadlines: Deadlines = CALM) -> RemoteDevice:
        command = command or f"'{sys.executable}' '{script}' %h %p"
        config(f"Host board\n{block(openssh, f'ProxyCommand {command}')}")
        opened.append(RemoteDevice(Entry("pi", "board"), deadlines))
        return opened[-1]

    yield reach
    for device in opened:
        device.close()


def children() -> set[int]:
    """Return the commands that we have started and that run."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            words = (folder / "cmdline").read_bytes()
            if int(parent) == os.getpid() and (b"forwarder" in words or b"tail" in words):
                found.add(int(folder.name))
    return found


def test_by_a_command(by_command: Callable, tmp_path: Path) -> None:
    device = by_command()
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    assert device.exec(["echo", "a  b"]).stdout == b"a  b\n"
    device.put(tmp_path / "big", str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == (tmp_path / "big").read_bytes()
    assert len(children()) == 1
    device.close()
    assert not children()


def test_by_ssh_itself(openssh: Any, gate: Any, config: Callable, tmp_path: Path, missing: Callable) -> None:
    if not shutil.which("ssh"):
        missing("ssh is not installed (package openssh-client)")
    openssh.trust()
    (tmp_path / "hosts").write_text(f"[127.0.0.1]:{gate.port} {(gate.key.parent / 'host_key.pub').read_text()}")
    options = f"-F none -o BatchMode=yes -o UserKnownHostsFile={tmp_path / 'hosts'} -i {gate.key} -p {gate.port}"
    config(f"Host board\n{block(openssh, f'ProxyCommand ssh {options} -W %h:%p {gate.user}@127.0.0.1')}")
    connect(resolve(Entry("pi", "board")), CALM).close()


def test_what_a_command_complains_is_told(by_command: Callable) -> None:
    with pytest.raises(UnreachableError, match=r"ended with status 7: no way to 127.0.0.1"):
        by_command("sh -c 'echo no way to %h >&2; exit 7'").exec(["true"])


def test_no_shell_for_a_command(by_command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/no/such/shell")
    with pytest.raises(UnreachableError, match=r"cannot be started.*/no/such/shell"):
        by_command().exec(["true"])


def test_a_command_that_says_nothing_is_ended(by_command: Callable) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match="said nothing"):
        by_command("tail -f /dev/null", replace(CALM, banner=0.5)).exec(["true"])
    assert time.monotonic() - started < 20
    assert not children()


def test_a_command_that_freezes(by_command: Callable, tmp_path: Path) -> None:
    """TCP would not notice: the deadline is ours."""
    (tmp_path / "big").write_bytes(bytes(20_000_000))
    device = by_command()
    device.exec(["true"])
    device.transport.channel_timeout = 1
    (frozen,) = children()
    os.kill(frozen, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(DeviceError, match=r"in time|lost"):
            device.put(tmp_path / "big", str(tmp_path / "there"))
        assert time.monotonic() - started < 20
        assert not children()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)


def test_a_server_that_freezes(openssh: Any) -> None:
    """The kernel there still takes what is sent, so TCP_USER_TIMEOUT does not see it."""
    openssh.trust()
    device = RemoteDevice(openssh.entry("/unused"), CALM)
    session = int(device.exec(["sh", "-c", "echo $PPID"]).stdout)
    device.transport.channel_timeout = 1
    os.kill(session, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(DeviceTimeoutError):
            device.exec(["true"], timeout=1)
        assert time.monotonic() - started < 20
    finally:
        os.kill(session, signal.SIGCONT)
        device.close()


def test_a_request_that_is_not_answered(openssh: Any) -> None:
    """The channel is open already when the server freezes: paramiko itself would wait for ever."""
    from edgeferry_devices.deadline import answer_within

    openssh.trust()
    device = RemoteDevice(openssh.entry("/unused"), CALM)
    session = int(device.exec(["sh", "-c", "echo $PPID"]).stdout)
    channel = device.transport.open_session(timeout=2)
    os.kill(session, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError), answer_within(0.3, channel):
            channel.exec_command("true")
    finally:
        os.kill(session, signal.SIGCONT)
        device.close()


def begin_login(port: int) -> socket.socket | None:
    """Connect, as somebody does who is about to log in; None where the server is still busy with another."""
    line = socket.create_connection(("127.0.0.1", port))
    if line.recv(4) == b"SSH-":
        return line
    line.close()
    return None


def test_a_full_queue_is_waited_for(start_openssh: Callable, wait_until: Callable) -> None:
    """MaxStartups 1: while somebody else is logging in, sshd closes every other connection."""
    server = start_openssh("MaxStartups 1\nLogLevel VERBOSE\n")
    server.trust()

    def turned_away() -> int:
        return (server.key.parent / "sshd.log").read_text().count("drop connection")

    def leave() -> None:
        wait_until(lambda: turned_away() > before)
        other.close()

    with wait_until(lambda: begin_login(server.port)) as other:
        before = turned_away()
        leaving = threading.Thread(target=leave)
        leaving.start()
        connect(resolve(server.entry("/unused")), replace(CALM, attempts=6)).close()
        leaving.join()


def test_many_at_once_get_in_one_after_the_other(start_openssh: Callable) -> None:
    """A fleet behind one jump host: twelve connections at a server that lets two log in at a time."""
    server = start_openssh("MaxStartups 2\n")
    server.trust()
    route = resolve(server.entry("/unused"))
    reached: list[bool] = []

    def reach() -> None:
        connect(route, replace(CALM, attempts=8)).close()
        reached.append(True)

    threads = [threading.Thread(target=reach) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reached) == 12


def test_a_queue_that_stays_full(start_openssh: Callable, wait_until: Callable) -> None:
    server = start_openssh("MaxStartups 1\n")
    server.trust()
    with (
        wait_until(lambda: begin_login(server.port)),
        pytest.raises(UnreachableError, match="takes more connections"),
    ):
        connect(resolve(server.entry("/unused")), CALM)


def test_a_changed_key_behind_an_alias(openssh: Any, config: Callable, home: Path, make_key: Callable) -> None:
    config(f"Host board\n{block(openssh, 'HostKeyAlias fleet', 'UserKnownHostsFile ~/fleet_hosts')}")
    (home / "fleet_hosts").write_text(f"fleet {(openssh.key.parent / 'host_key.pub').read_text()}")
    connect(resolve(Entry("pi", "board")), CALM).close()
    old = make_key(home / "old")
    (home / "fleet_hosts").write_text(f"fleet {old.get_name()} {old.get_base64()}\n")
    with pytest.raises(HostKeyError, match="CHANGED") as caught:
        connect(resolve(Entry("pi", "board")), CALM)
    for key in (openssh.host_key, hostkeys.HostKey(old.get_name(), old.asbytes())):
        assert key.fingerprint in str(caught.value)


def locked_key(server: Any, folder: Path) -> Path:
    """Lock a copy of the server's client key with the passphrase ``secret``."""
    path = folder / "locked"
    shutil.copy(server.key, path)
    path.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", path], check=True, capture_output=True)
    return path


def test_a_passphrase_is_asked_for_once(openssh: Any, tmp_path: Path) -> None:
    openssh.trust()
    route = replace(resolve(openssh.entry("/unused")), keys=(locked_key(openssh, tmp_path),))
    asked: list[str] = []
    answers = iter(["wrong", "secret"])

    def ask(question: str) -> str:
        asked.append(question)
        return next(answers)

    secrets = Secrets(ask)
    for _ in range(2):
        connect(route, CALM, secrets).close()
    assert asked == [f"Passphrase of {tmp_path / 'locked'}"] * 2


def test_threads_share_what_was_asked() -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        time.sleep(0.05)
        return "secret"

    secrets = Secrets(ask)
    threads = [threading.Thread(target=secrets.get, args=("Passphrase of k",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["Passphrase of k"]
    assert secrets.get("Passphrase of k", "other") == "secret"
    assert secrets.get("Passphrase of k", "secret") == "secret"
    assert len(asked) == 2


def test_a_passphrase_that_stays_wrong(openssh: Any, tmp_path: Path) -> None:
    openssh.trust()
    route = replace(resolve(openssh.entry("/unused")), keys=(locked_key(openssh, tmp_path),))
    with pytest.raises(AuthenticationError, match=r"passphrase of .* wrong 3 times.*ssh-add"):
        connect(route, CALM, Secrets(lambda _: "wrong"))


def at_a_terminal(argv: list[str], answers: list[str]) -> tuple[int, str]:
    """Run a command that has a terminal of its own, and answer each of its questions once it stands there."""
    ours, theirs = pty.openpty()
    own = "import os, sys; os.setsid(); os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"
    argv = [sys.executable, "-c", own, os.ttyname(theirs), *argv]
    said = b""
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while True:
            try:
                chunk = os.read(ours, 1 << 16)
            except OSError:
                break
            said += chunk
            if said.endswith(b": ") and answers:
                os.write(ours, f"{answers.pop(0)}\n".encode())
    os.close(ours)
    return process.returncode, said.decode()


def test_a_passphrase_at_a_terminal_and_without_one(openssh: Any, tmp_path: Path) -> None:
    openssh.trust()
    key = locked_key(openssh, tmp_path)
    inventory.add(replace(openssh.entry(tmp_path / "bare"), key=str(key)))
    argv = [sys.executable, "-m", "edgeferry_runtime", "device", "info", "pi"]
    code, said = at_a_terminal(argv, ["wrong", "secret"])
    assert code == 0, said
    assert said.count(f"Passphrase of {key}: ") == 2
    assert "secret" not in said
    code, said = at_a_terminal(argv, [""])
    assert (code, "no passphrase was given" in said) == (4, True)
    alone = subprocess.run(argv, input="secret\n", capture_output=True, text=True, start_new_session=True, check=False)
    assert alone.returncode == 4
    assert "is encrypted, no agent holds it" in alone.stderr
    assert "ssh-add" in alone.stderr
    assert "secret" not in inventory.inventory_path().read_text()


def test_an_agent_that_does_not_answer(openssh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssh.trust()
    monkeypatch.setattr(identities, "AGENT_SECONDS", 0.2)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    connect(resolve(openssh.entry("/unused")), CALM).close()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        with pytest.raises(AuthenticationError, match=r"agent at .* does not answer"):
            connect(resolve(openssh.entry("/unused")), CALM)


@pytest.mark.parametrize("methods", ["password", "keyboard-interactive", "publickey and password"])
def test_a_password_of_a_named_variable(start_server: Callable, monkeypatch: pytest.MonkeyPatch, methods: str) -> None:
    server = start_server(methods=methods, password="over there")
    server.trust()
    entry = replace(server.entry("/unused"), password_env="PI_PASSWORD")
    with pytest.raises(AuthenticationError, match=r"in \$PI_PASSWORD, which is not set"):
        connect(resolve(entry), CALM)
    monkeypatch.setenv("PI_PASSWORD", "no")
    with pytest.raises(AuthenticationError, match=r"the password in \$PI_PASSWORD is wrong"):
        connect(resolve(entry), CALM)
    monkeypatch.setenv("PI_PASSWORD", "over there")
    connect(resolve(entry), CALM).close()


def test_a_password_is_asked_for_where_no_key_fits(start_server: Callable) -> None:
    server = start_server(methods="password", password="over there")
    server.trust()
    route = resolve(server.entry("/unused"))
    asked = []

    def ask(question: str) -> str:
        asked.append(question)
        return "over there"

    connect(route, CALM, Secrets(ask)).close()
    assert asked == ["Password of pi@127.0.0.1"]
    with pytest.raises(AuthenticationError, match="the password was asked for 3 times and is wrong"):
        connect(route, CALM, Secrets(lambda _: "no"))
    with pytest.raises(AuthenticationError, match=r"takes only password.*--password-env"):
        connect(route, CALM)


def test_no_password_goes_to_a_server_that_is_not_known(start_server: Callable) -> None:
    server = start_server(methods="password", password="over there")
    with pytest.raises(HostKeyError, match="unknown"):
        connect(resolve(server.entry("/unused")), CALM, Secrets(lambda _: pytest.fail("asked")))


def test_a_locked_key_is_known_by_its_head(tmp_path: Path, make_key: Callable) -> None:
    """So that the agent's copy of it is found where no ``.pub`` lies beside it."""
    key = make_key(tmp_path / "locked", "secret")
    (tmp_path / "locked.pub").unlink()
    assert identities._public_blob(tmp_path / "locked") == key.asbytes()
    (tmp_path / "short").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END")
    assert identities._public_blob(tmp_path / "short") is None
