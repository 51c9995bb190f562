"""Real SSH servers, real bundles and devices of every kind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np
import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.common import MSG_CHANNEL_REQUEST

from edgeferry_devices import history, hostkeys, inventory
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import Entry
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.ssh import Deadlines
from edgeferry_devices.wheel import runtime_version
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.measurement.statistics import summarize
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.store import MARKER
from edgeferry_runtime.tensors import TensorSpec

ACCURACY = {"metric": "top1", "output": "y", "samples": 500, "source": 91.2, "artifact": 90.8, "drop": 0.4}
PYTHON_DIR = str(Path(sys.executable).resolve().parent)
QUICK = Deadlines(connect=5, banner=5, auth=10, channel=10, idle=10, attempts=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the host side a home of its own, and no agent."""
    folder = tmp_path / "host"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(variable, raising=False)
    return folder


def write_key(path: Path, passphrase: str = "") -> paramiko.PKey:
    """Make an Ed25519 key pair and return it."""
    secret = passphrase.encode()
    lock = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    key = Ed25519PrivateKey.generate()
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(*formats, lock))
    path.chmod(0o600)
    loaded = paramiko.Ed25519Key.from_private_key_file(str(path), password=passphrase or None)
    path.with_name(path.name + ".pub").write_text(f"{loaded.get_name()} {loaded.get_base64()}\n")
    return loaded


def wait(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    return wait


@pytest.fixture
def ferry(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ferry; return its exit code, stdout and stderr."""
    from edgeferry_runtime.cli import main

    def run(*argv: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in argv])
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def make_key() -> Callable[..., paramiko.PKey]:
    return write_key


@dataclass(frozen=True)
class Server:
    """A running SSH server."""

    kind: str
    port: int
    user: str
    key: Path
    host_key: HostKey
    home: Path

    def entry(self, root: Path | str, name: str = "pi") -> Entry:
        return Entry(name, "127.0.0.1", self.user, self.port, str(self.key), str(root))

    def trust(self, port: int = 0) -> None:
        hostkeys.pin(hostkeys.lookup_name("127.0.0.1", port or self.port), self.host_key)


class Account(paramiko.ServerInterface):
    """Lets one key in, or one password, or wants both, and runs its commands as real processes."""

    def __init__(self, accepted: paramiko.PKey, environment: dict[str, str], methods: str, password: str) -> None:
        self.accepted = accepted
        self.environment = environment
        self.methods = methods
        self.password = password
        self.asked: list[tuple[paramiko.Channel, str]] = []

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if key != self.accepted or "publickey" not in self.methods:
            return paramiko.AUTH_FAILED
        both = "and" in self.methods
        self.methods = "password" if both else self.methods
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL if both else paramiko.AUTH_SUCCESSFUL

    def check_auth_password(self, username: str, password: str) -> int:
        right = "password" in self.get_allowed_auths(username) and password == self.password
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> paramiko.InteractiveQuery:
        return paramiko.InteractiveQuery("", "", ("Password: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return paramiko.AUTH_SUCCESSFUL if responses == [self.password] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return self.methods.partition(" and ")[0]

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.append((channel, command.decode()))
        return True

    def begin(self) -> None:
        """Start what was asked for; a command that ended before its request was answered would confuse the client."""
        while self.asked:
            threading.Thread(target=self.execute, args=self.asked.pop(), daemon=True).start()

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = ["/bin/sh", "-c", command]
        with subprocess.Popen(argv, env=self.environment, cwd=self.environment["HOME"], bufsize=0, **pipes) as child:
            pumps = [
                threading.Thread(target=pump, args=(child.stdout.read, channel.sendall)),
                threading.Thread(target=pump, args=(child.stderr.read, channel.sendall_stderr)),
            ]
            feeder = threading.Thread(target=pump, args=(channel.recv, child.stdin.write, child.stdin.close))
            for thread in (*pumps, feeder):
                thread.daemon = True
                thread.start()
            status = child.wait()
            for thread in pumps:
                thread.join()
            with contextlib.suppress(OSError, EOFError):
                channel.send_exit_status(status if status >= 0 else 128 - status)
                channel.close()
            feeder.join(timeout=5)


def pump(read: Callable[[int], bytes], write: Callable[[bytes], object], finish: Callable[[], object] = bool) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError):
        while chunk := read(1 << 16):
            write(chunk)
    with contextlib.suppress(OSError):
        finish()


class Line(paramiko.Transport):
    """A connection that answers a request before it begins the command."""

    def answer(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        paramiko.Channel._handle_request(channel, message)
        self.server_object.begin()

    @property
    def _channel_handler_table(self) -> dict[int, Callable[..., None]]:
        return {**paramiko.Transport._channel_handler_table, MSG_CHANNEL_REQUEST: self.answer}


class Files(paramiko.SFTPServerInterface):
    """The real file system."""

    def __init__(self, server: paramiko.ServerInterface) -> None:
        self.streams: list[IO[bytes]] = []

    def session_ended(self) -> None:
        for stream in self.streams:
            with contextlib.suppress(OSError):
                stream.close()

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        try:
            stream = os.fdopen(os.open(path, flags, 0o600), "r+b" if flags & os.O_RDWR else "wb" if flags & 1 else "rb")
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        self.streams.append(stream)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = stream
        return handle

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(Path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)


class InProcess:
    """An SSH server in this process."""

    def __init__(
        self, home: Path, environment: dict[str, str], sftp: bool = True, methods: str = "publickey", password: str = ""
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.environment = {"HOME": str(home), **environment}
        self.sftp = sftp
        self.logins = methods, password
        self.accepted = write_key(home / "client_key")
        self.host_key = write_key(home / "host_key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.transports: list[paramiko.Transport] = []
        threading.Thread(target=self.serve, daemon=True).start()
        shown = HostKey(self.host_key.get_name(), self.host_key.asbytes())
        port = self.listener.getsockname()[1]
        self.server = Server("inprocess", port, "pi", home / "client_key", shown, home)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            transport = Line(connection)
            transport.add_server_key(self.host_key)
            if self.sftp:
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
            self.transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(
                    event=threading.Event(), server=Account(self.accepted, self.environment, *self.logins)
                )

    def close(self) -> None:
        self.listener.close()
        for transport in self.transports:
            transport.close()


SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/client_key.pub
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
SetEnv HOME={home} PATH={path}
"""


@contextlib.contextmanager
def openssh_server(folder: Path, path: str, first: str = "") -> Iterator[Server]:
    """Run OpenSSH's server on a free port, as whoever runs the tests; of its options, the `first` ones count."""
    home = folder / "home"
    home.mkdir(parents=True)
    write_key(folder / "client_key")
    shown = write_key(folder / "host_key")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (folder / "sshd_config").write_text(first + SSHD_CONFIG.format(port=port, folder=folder, home=home, path=path))
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    argv = [str(sshd), "-D", "-e", "-f", folder / "sshd_config"]
    forgiving = ["-o", "PerSourcePenalties=no"]  # since 9.8 wrong keys shut out all that comes from 127.0.0.1
    if not subprocess.run([*argv, *forgiving, "-t"], capture_output=True, check=False).returncode:
        argv += forgiving
    log = (folder / "sshd.log").open("wb")
    with log, subprocess.Popen(argv, stderr=log) as process:
        try:
            await_server(port, process, folder / "sshd.log")
            user = subprocess.check_output(["id", "-un"], text=True).strip()
            host_key = HostKey(shown.get_name(), shown.asbytes())
            yield Server("openssh", port, user, folder / "client_key", host_key, home)
        finally:
            process.terminate()


def await_server(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server that was started takes connections."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def wait_for_server() -> Callable[[int, subprocess.Popen[bytes], Path], None]:
    return await_server


@pytest.fixture(scope="session")
def openssh(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Iterator[Server]:
    """OpenSSH's own server."""
    if not shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        missing("sshd is not installed (package openssh-server)")
    folder = tmp_path_factory.mktemp("openssh")
    with openssh_server(folder, f"{PYTHON_DIR}:/usr/bin:/bin") as server:
        yield server


@pytest.fixture
def start_openssh(tmp_path: Path, missing: Callable[[str], None]) -> Iterator[Callable[..., Server]]:
    """Start OpenSSH's servers, with options of one's choice."""
    if not shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        missing("sshd is not installed (package openssh-server)")
    with contextlib.ExitStack() as running:

        def start(first: str = "") -> Server:
            folder = tmp_path / f"sshd{len(list(tmp_path.glob('sshd*')))}"
            return running.enter_context(openssh_server(folder, f"{PYTHON_DIR}:/usr/bin:/bin", first))

        yield start


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers in this process, with a PATH of one's choice."""
    started: list[InProcess] = []

    def start(path: str = f"{PYTHON_DIR}:/usr/bin:/bin", sftp: bool = True, **logins: str) -> Server:
        started.append(InProcess(tmp_path / f"server{len(started)}", {"PATH": path}, sftp, **logins))
        return started[-1].server

    yield start
    for server in started:
        server.close()


@pytest.fixture(params=["inprocess", "openssh"])
def server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """Each kind of SSH server, its host key trusted."""
    found: Server = start_server() if request.param == "inprocess" else request.getfixturevalue("openssh")
    found.trust()
    return found


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that sees the packages of the tests, and into which nothing needs to be installed."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    (packages / "host.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    python = f"python {sys.version_info[0]}.{sys.version_info[1]}"
    stamp = {"runtime": runtime_version(), "formats": ["onnx", "serve", "tflite"], "wheels": {}, "environment": python}
    (folder / "edgeferry.json").write_text(json.dumps(stamp))
    return folder


@pytest.fixture
def root(tmp_path: Path, environment: Path) -> Path:
    """A device folder that needs no installation."""
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / MARKER).touch()
    (folder / "venv").symlink_to(environment)
    return folder


@pytest.fixture
def boards(openssh: Server, environment: Path, tmp_path: Path) -> Callable[..., list[Path]]:
    """Put boards into the inventory: folders of one SSH server, to which nothing needs to be installed."""

    def make(*names: str, **options: str) -> list[Path]:
        openssh.trust()
        roots = [tmp_path / "boards" / name for name in names]
        for name, folder in zip(names, roots, strict=True):
            folder.mkdir(parents=True)
            (folder / MARKER).touch()
            (folder / "venv").symlink_to(environment)
            inventory.add(replace(openssh.entry(folder, name), **options))
        return roots

    return make


@pytest.fixture
def pi(server: Server, root: Path) -> Iterator[RemoteDevice]:
    """A device over each kind of SSH server, in the inventory as ``pi``."""
    inventory.add(server.entry(root))
    device = RemoteDevice(server.entry(root), QUICK)
    yield device
    device.close()


@dataclass(frozen=True)
class Place:
    """A device under test: its name in the inventory, itself, and its folder on this file system."""

    name: str
    device: LocalDevice | RemoteDevice
    root: Path


@pytest.fixture(params=["local", "inprocess", "openssh"])
def place(
    request: pytest.FixtureRequest, home: Path, root: Path, start_server: Callable[..., Server]
) -> Iterator[Place]:
    """Each kind of device; what holds for one must hold for all."""
    if request.param == "local":
        yield Place("local", LocalDevice(), home / ".local/share/edgeferry")
        return
    found: Server = start_server() if request.param == "inprocess" else request.getfixturevalue("openssh")
    found.trust()
    inventory.add(found.entry(root))
    device = RemoteDevice(found.entry(root), QUICK)
    yield Place("pi", device, root)
    device.close()


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense layer and a softmax."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(8, 4)).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    save(model, path)
    return path


@pytest.fixture
def make_bundle(onnx_file: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """Write bundles around the tiny model; `wrong` spoils their golden outputs, `padding` makes them large."""
    import onnxruntime

    specs = (TensorSpec("x", (1, 8), "float32"),), (TensorSpec("y", (1, 4), "float32"),)
    manifest = Manifest("tiny", "model.onnx", "onnx", "none", *specs, {"format": "test"}, Tolerance(max_abs=1e-5))
    inputs = np.random.default_rng(1).normal(size=(3, 1, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_file)
    golden = np.stack([session.run(None, {"x": x})[0] for x in inputs])

    def make(name: str = "tiny", wrong: float = 0.0, padding: int = 0) -> Bundle:
        def fill(folder: Path) -> None:
            shutil.copyfile(onnx_file, folder / "model.onnx")
            Probe({"x": inputs}, {"y": golden + np.float32(wrong)}).save(folder / "probe.npz")
            (folder / "labels.txt").write_text("a\nb\nc\nd\n")
            if padding:
                (folder / "recipe.toml").write_bytes(np.random.default_rng(2).bytes(padding))

        return write_bundle(tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}", replace(manifest, name=name), fill)

    return make


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    """The tiny bundle."""
    return make_bundle()


@pytest.fixture
def remember() -> Callable[..., Path]:
    """Keep a profile of about so many milliseconds, of a device and a bundle, so many days old."""
    generator = np.random.default_rng(0)

    def keep(device: str, ms: float, days: float = 0, run: str = "", **changes: object) -> Path:
        samples = ms * generator.lognormal(0, 0.01, 60)
        name, bundle_id = str(changes.pop("name", "kws")), str(changes.pop("bundle", "a" * 64))
        artifact = {"name": name, "bundle": bundle_id, "sha256": "e" * 64, "size_bytes": 61440, "accuracy": ACCURACY}
        profile = Profile(
            artifact=artifact,
            engine={"name": "onnxruntime", "version": "1.20", "delegate": "cpu"},
            device=device,
            machine={"board": "Raspberry Pi 4", "cores": 4},
            init_ms=3.0,
            first_inference_ms=9.0,
            num_runs=len(samples),
            warmup_runs=10,
            **summarize(samples),
            samples_ms=tuple(samples.tolist()),
            state_before={"temperature_c": 48.0, "governor": "ondemand"},
            state_after={"temperature_c": 61.25, "governor": "ondemand"},
        )
        at = datetime.now(timezone.utc) - timedelta(days=days)
        return history.record(replace(profile, **changes), run or history.new_run(), at)

    return keep


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], list[str]]]:
    """Put a program of a name first on the PATH, which does nothing; it is told with which arguments it was called."""

    def put(name: str) -> Callable[[], list[str]]:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\necho \"$*\" >>'{folder}/{name}.called'\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return lambda: (folder / f"{name}.called").read_text().splitlines()

    return put


@pytest.fixture(scope="session")
def start_systemd(
    tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]
) -> Callable[[Path], contextlib.AbstractContextManager[Path]]:
    """Start a real ``systemd --user`` for an account whose home is given; see `systemd_user.py`."""
    spec = importlib.util.spec_from_file_location("systemd_user", Path(__file__).with_name("systemd_user.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.lacking():
        missing(reason) if "installed" in reason else pytest.skip(reason)
    return lambda home: module.systemd_user(tmp_path_factory.mktemp("systemd"), home)
