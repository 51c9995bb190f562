"""A device that serves what is on it: deployed, changed, refused, and gone without a trace."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import bootstrap
from edgeferry_devices.commands.server_options import read_server
from edgeferry_devices.deploying import Goal, deploy
from edgeferry_devices.each import Pace
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.purging import purge
from edgeferry_devices.pushing import push
from edgeferry_devices.servicing import (
    remove_service,
    restart_service,
    service_log,
    service_status,
    service_token,
    start_service,
    stop_service,
)
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.device_service import readiness
from edgeferry_runtime.device_service.config import Config, Server, command, make_token
from edgeferry_runtime.device_service.control import Control
from edgeferry_runtime.errors import (
    DeviceRequirementError,
    EdgeferryError,
    MissingFileError,
    NotTriedError,
    UnknownNameError,
    UsageError,
)
from edgeferry_runtime.proofs import Terms
from edgeferry_runtime.store import Store

Ferry = Callable[..., tuple[int, str, str]]
NONSENSE = Server(("--nonsense",))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def on(port: int, more: str = "") -> Server:
    found = read_server(f"--port {port} --grpc-port 0 --management-port 0 {more}")
    assert found is not None
    return found


def status_of(port: int, token: str) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/models/tiny", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body and json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here the account has none, whatever the machine has."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))


@pytest.fixture
def local() -> Iterator[LocalDevice]:
    """This machine, whose service ends with the test."""
    device = LocalDevice()
    yield device
    remove_service(device)


@pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)
def test_from_a_deployment_to_a_hot_swap_and_back_to_nothing(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    first, second, port = make_bundle(), make_bundle(padding=1000), free_port()
    place.root.parent.mkdir(parents=True, exist_ok=True)
    around = sorted(place.root.parent.iterdir())
    goal = Goal(serve=True, server=on(port))
    told = deploy(first, [place.name], goal=goal)[0].result().service
    try:
        assert told is not None
        assert (told["way"], told["running"], told["ready"], told["changed"]) == ("background", True, True, True)
        assert told["url"] == f"http://127.0.0.1:{port}"
        assert "does not survive a reboot" in told["notes"][0]
        x, y = first.probe().inputs["x"][0], first.probe().outputs["y"][0]
        asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": x.ravel().tolist()}]}
        answer = ask(port, "/v2/models/tiny/infer", asked)
        assert answer["outputs"][0]["data"] == pytest.approx(y.ravel().tolist(), abs=1e-5)
        assert ask(port, "/v2/models/tiny")["versions"] == ["1"]

        told = deploy(second, [place.name], goal=Goal(serve=True))[0].result().service
        assert told is not None
        assert (told["changed"], told["version"]) == (False, "2"), "a new release needs no restart"
        assert ask(port, "/v2/models/tiny")["versions"] == ["2"]
        pid = service_status(place.device)["pid"]
        assert any("HTTP on" in line for line in service_log(place.device))

        private = {path.name: path.stat().st_mode & 0o077 for path in (place.root / "service").iterdir()}
        (staged,) = {name for name in private if name.startswith("edgeferry-serve-")}
        assert private == {"config.json": 0, "running": 0, "log": 0, staged: 0}
    finally:
        done = purge(place.device)
    assert done.removed
    assert not is_alive(pid)
    assert sorted(place.root.parent.iterdir()) == [path for path in around if path != place.root]


def test_stopped_killed_brought_up_to_date_and_removed(local: LocalDevice, bundle: Bundle) -> None:
    push(bundle, local)
    port, python = free_port(), [sys.executable]
    pid = start_service(local, on(port))["pid"]
    assert start_service(local)["pid"] == pid, "what runs as it should goes on"
    assert not stop_service(local)["running"]
    assert not is_alive(pid)
    assert bootstrap.tend(python, "refresh", local.root) == ""
    with pytest.raises(MissingFileError, match="asks for no token: only the device itself reaches it"):
        service_token(local)
    assert not service_status(local)["running"], "an installation leaves what was stopped alone"
    again = restart_service(local)
    assert (again["ready"], again["port"]) == (True, port), "it is kept how to serve"
    os.kill(again["pid"], signal.SIGKILL)
    until(lambda: service_status(local)["ready"] and service_status(local)["pid"] != again["pid"])

    config = Config.read(local.root)
    assert config is not None
    replace(config, runtime="an older one").write(local.root)
    told = service_status(local)
    assert "older runtime" in told["notes"][-1]
    assert bootstrap.tend(python, "refresh", local.root) == ""
    fresh = service_status(local)
    assert (fresh["ready"], fresh["pid"] != told["pid"], len(fresh["notes"])) == (True, True, 1)

    assert remove_service(local)["removed"]
    assert not (local.root / "service").exists()
    assert (local.root / "bundles" / "tiny" / "current").exists()
    assert service_status(local) == {"installed": False, "way": "", "running": False, "ready": False}
    assert not remove_service(local)["removed"]


def test_what_does_not_come_up_leaves_what_was(local: LocalDevice, bundle: Bundle) -> None:
    push(bundle, local)
    said: list[str] = []
    with pytest.raises(EdgeferryError, match="the service on local: did not come up: it ended with status 2; look at"):
        start_service(local, NONSENSE, said.append)
    assert not service_status(local)["installed"]
    assert not (local.root / "service").exists()
    assert any(line.startswith("local: the service said: ") and "'--nonsense'" in line for line in said)

    port = free_port()
    start_service(local, on(port))
    reason = "the service on local: another program listens on port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EdgeferryError, match=reason):
        start_service(local, on(taken.getsockname()[1]))
    told = service_status(local)
    assert (told["ready"], told["port"]) == (True, port)


@pytest.mark.parametrize("gone", [BrokenPipeError, KeyboardInterrupt])
def test_who_asked_is_gone_and_what_does_not_come_up_leaves_nothing(gone: type[BaseException], tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise gone

    root = tmp_path / "device"
    (root / "bundles").mkdir(parents=True)
    with pytest.raises(EdgeferryError if gone is BrokenPipeError else gone):
        Control(root, say).start(asdict(NONSENSE))
    assert [path.name for path in root.iterdir()] == ["bundles"]


def test_a_disk_that_is_full_leaves_what_was(local: LocalDevice, bundle: Bundle, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    push(bundle, local)
    port, control = free_port(), Control(local.root)
    start_service(local, on(port))
    monkeypatch.setattr("edgeferry_runtime.device_service.config.write_private", full)
    reason = r"cannot be written \(No space left on device\); free some space there"
    with pytest.raises(DeviceRequirementError, match=reason):
        control.start(asdict(on(free_port())))
    told = control.status()
    assert (told["ready"], told["port"]) == (True, port)
    with pytest.raises(DeviceRequirementError, match=reason):
        control.restart()
    assert control.status() == told, "it was not even stopped"
    remove_service(local)
    with pytest.raises(DeviceRequirementError, match=reason):
        control.start(asdict(on(port)))
    assert not (local.root / "service").exists()


def test_a_service_that_cannot_be_ended_is_not_purged(local: LocalDevice, bundle: Bundle, monkeypatch: Any) -> None:
    push(bundle, local)
    (local.root / "service").mkdir()
    monkeypatch.setattr("edgeferry_devices.purging._ours", lambda *_: ["/nowhere/python"])
    with pytest.raises(
        EdgeferryError, match=r"the service of .* cannot be removed \(.*\); stop it by hand, and remove"
    ):
        purge(local)
    assert (local.root / "bundles" / "tiny" / "current").exists()
    assert "No such file" in bootstrap.tend(["/nowhere/python"], "refresh", local.root)
    assert bootstrap.tend(["/nowhere/python"], "refresh", local.root / "bundles") == ""


def test_several_at_once_and_a_canary(boards: Callable[..., list[Path]], bundle: Bundle) -> None:
    boards("a", "b")
    said: list[str] = []
    first, second = deploy(bundle, ["a", "b"], Pace(canary=1), said.append, goal=Goal(serve=True, server=NONSENSE))
    assert "did not come up" in str(first.error)
    assert isinstance(second.error, NotTriedError)
    assert f"a: tiny {bundle.id[:12]} is the current release all the same" in said


def test_a_deployment_that_was_cut_is_picked_up_as_it_was_begun() -> None:
    for goal in (Goal(), Goal(Terms("cpu:2", True)), Goal(serve=True), Goal(Terms(), True, on(9000, "--drain 5s"))):
        assert Goal.of(**json.loads(json.dumps(goal.to_dict()))) == goal
    assert Goal().to_dict() == Terms().to_dict(), "journals of earlier versions"


def test_what_is_not_there_is_said(local: LocalDevice) -> None:
    for perform in (stop_service, restart_service, service_log, service_token):
        with pytest.raises(MissingFileError, match="the service on local: is not installed; install it: ferry service"):
            perform(local)
    with local.open_agent() as agent, pytest.raises(UsageError, match="unknown name 'strat'; did you mean 'start'"):
        agent.ask("service", action="strat")


def test_a_token_that_is_gone_is_said(tmp_path: Path) -> None:
    Config(Server(token_file="of my own"), "background", "").write(tmp_path)
    with pytest.raises(MissingFileError, match=r"service/of my own: cannot be read \(No such file or directory\)"):
        Control(tmp_path).token()


def test_a_release_that_does_not_answer_is_said(local: LocalDevice, make_bundle: Callable[..., Bundle]) -> None:
    good, bad = make_bundle(), make_bundle(wrong=1.0)
    push(good, local)
    server = on(free_port())
    assert start_service(local, server, release=("tiny", good.id))["version"] == "1"
    with pytest.raises(EdgeferryError, match=r"release cafe of tiny after 0\.1 s; look: ferry service"):
        readiness.wait_for(server, None, "tiny", "cafe", 0.1)
    folder = local.root / "bundles" / "tiny" / "releases" / bad.id
    shutil.copytree(bad.path, folder)
    Store(local.root).switch(folder)
    with pytest.raises(EdgeferryError, match=f"does not answer with release {bad.id[:12]} of tiny \\(.*source"):
        readiness.wait_for(server, None, "tiny", bad.id, 60)
    assert ask(server.port, "/v2/models/tiny")["versions"] == ["1"]


def test_a_note_that_is_damaged_is_said_and_does_not_hinder_a_removal(local: LocalDevice) -> None:
    (local.root / "service").mkdir(parents=True)
    (local.root / ".edgeferry-device").touch()
    (local.root / "service" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is damaged; remove the service: ferry service remove"):
        service_status(local)
    assert remove_service(local)["removed"]


def test_a_token_is_made_where_other_machines_come(tmp_path: Path) -> None:
    near, far, own = on(80), on(80, "--host 0.0.0.0"), Server(host="0.0.0.0", token_file="/etc/token")
    for server in (near, far, own):
        make_token(tmp_path, server)
    token = tmp_path / "service" / "token"
    assert (token.stat().st_mode & 0o777, len(token.read_text().strip())) == (0o600, 43)
    kept = token.read_text()
    make_token(tmp_path, far)
    assert token.read_text() == kept, "clients have it"
    assert command(tmp_path, far)[-2:] == ["--token-file", str(token)]
    assert "--token-file" not in [*command(tmp_path, near), *command(tmp_path, own)]
    assert (far.near, far.url, on(80, "--host ::").url) == ("127.0.0.1", "http://0.0.0.0:80", "http://[::]:80")


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("'", UsageError, "--serve-with: cannot be split into words"),
        ("--port 0", UsageError, "--serve-with --port 0: is no port that clients can be told"),
        ("--port x", UsageError, "--serve-with: Invalid value for '--port': 'x' is not a valid integer"),
        ("--port 65536", UsageError, "--serve-with: Invalid value for '--port': 65536 is not in the range"),
        ("--max-batch abc", UsageError, "--serve-with: Invalid value for '--max-batch'"),
        ("--timeout never", UsageError, "'never' is no length of time"),
        ("--prot 9", UnknownNameError, "--serve-with: unknown name '--prot'; did you mean '--port'"),
        ("--drain 61m", UsageError, "--serve-with --drain: is longer than anybody waits"),
        ("--drain", UsageError, "--serve-with: Option '--drain' requires an argument"),
        ("--host ''", UsageError, "--serve-with: gives an empty value"),
        ("--token-file=", UsageError, "--serve-with: gives an empty value"),
        ("--help", UsageError, "--serve-with --help: serves nothing; see: ferry serve --help"),
        ("-h", UsageError, "--serve-with -h: serves nothing; see: ferry serve --help"),
        ("--repository /srv", UsageError, "--serve-with: names what to serve"),
        ("bundle", UsageError, "--serve-with: names what to serve"),
    ],
)
def test_options_that_cannot_be_kept(text: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        read_server(text)


def test_files_that_options_name_are_not_those_of_this_machine(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    server = read_server(f"--tls-cert {__file__} --tls-key {__file__} --token-file {__file__} --drain 1h")
    assert server is not None
    assert (server.encrypted, server.token_file, server.drain_s) == (True, __file__, 3600.0)


def test_the_commands(ferry: Ferry, local: LocalDevice, bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    pem = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["-nodes", "-subj", "/CN=board.local", "-keyout", str(pem[0]), "-out", str(pem[1])]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ed25519", *made], check=True, capture_output=True)
    encrypted = f"--tls-key {pem[0]} --tls-cert {pem[1]}"
    options = f"--host 0.0.0.0 --port {port} --no-grpc --no-management {encrypted}"
    code, out, err = ferry("deploy", bundle.path, "local", "--service", "--serve-with", options, "--json")
    assert code == 0, err
    told = json.loads(out)["deployments"][0]["push"]["service"]
    assert (told["ready"], told["port"], told["options"]) == (True, port, options.split())
    line = f"local: ready at https://0.0.0.0:{port}, in the background, pid {told['pid']}\n"
    code, out, err = ferry("service", "status", "local")
    assert (code, out) == (0, line)
    assert "then, ferry service start" in err
    assert ferry("service", "start", "local")[1] == line
    code, out, err = ferry("deploy", bundle.path, "local", "--service")
    assert (code, line in err) == (0, True)
    assert f"HTTP on https://0.0.0.0:{port}" in ferry("service", "logs", "local", "--lines", "50")[1]
    assert json.loads(ferry("service", "logs", "local", "--lines", "1", "--json")[1])["lines"]
    token = ferry("service", "token", "local")[1].strip()
    assert token not in out + err + (LocalDevice().root / "service" / "config.json").read_text()
    assert (status_of(port, token), status_of(port, "another")) == (200, 401)
    assert ferry("service", "stop", "local")[1] == "local: its service is stopped\n"
    assert ferry("service", "logs", "local")[0] == 0
    assert ferry("service", "remove", "local")[1] == "local: the service is removed\n"
    assert ferry("service", "status", "local")[1] == "local: has no service\n"
    code, _, err = ferry("service", "start", "local", "--serve-with", "--prot 9")
    assert (code, "did you mean '--port'?" in err) == (2, True)
