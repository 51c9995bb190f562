"""The servers that are compared: how each is installed, started and asked."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .model import Subject

PEERS = Path(__file__).parent / "peers"
WORKERS = 2
"""Models at the same time in each server, where it can be told."""


@dataclass(frozen=True)
class Way:
    """A way to ask a server: one line of the table for each number of clients.

    Attributes:
        name: What the table calls it.
        requests: What is sent for each picture: a whole HTTP request, or a gRPC message.
        reader: How its answers are read: a key of `job.READERS`.
        grpc: Whether it is asked on its gRPC port.
    """

    name: str
    requests: Callable[[Subject], list[bytes]]
    reader: str
    grpc: bool = False


@dataclass(frozen=True)
class Server:
    """One of the servers.

    Attributes:
        name: What it is called.
        home: Which of `HOMES` it runs in; empty for this environment.
        command: Its command line; it may write files into the folder.
        ready: The path that answers 200 once it is ready.
        ways: How it is asked.
        keras: Whether it runs the Keras model rather than the artifact.
    """

    name: str
    home: str
    command: Callable[[Start], list[str]]
    ready: str
    ways: tuple[Way, ...]
    keras: bool = False


@dataclass(frozen=True)
class Start:
    """What a command line is made of.

    Attributes:
        python: The Python of the server's environment.
        subject: What is served.
        port: Where to listen on loopback.
        grpc_port: Where to listen for gRPC, if it does.
        folder: An empty folder for the server's own files.
    """

    python: Path
    subject: Subject
    port: int
    grpc_port: int
    folder: Path

    def tool(self, name: str) -> str:
        """Return a program of the environment."""
        return str(self.python.with_name(name))


@dataclass(frozen=True)
class Home:
    """A virtual environment for a server.

    Attributes:
        packages: What is installed.
        shares: Whether it also sees the packages of this environment, such as TensorFlow.
    """

    packages: tuple[str, ...]
    shares: bool = False

    def prepare(self, folder: Path) -> Path:
        """Return its Python, after making it where it is not there yet."""
        wanted, done = "\n".join(self.packages), folder / "installed.txt"
        if not done.exists() or done.read_text() != wanted:
            print(f"install {', '.join(self.packages)}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *self.packages]
            subprocess.run(pip, check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
            if self.shares:
                packages = next(folder.glob("lib/python3*/site-packages"))
                here = sysconfig.get_paths()["purelib"]
                (packages / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n")
            done.write_text(wanted)
        return folder / "bin" / "python"


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: Its HTTP port.
        grpc_port: Its gRPC port.
        session: The session that all of its processes belong to.
    """

    port: int
    grpc_port: int
    session: int


ENGINE = f"ai-edge-litert=={importlib.metadata.version('ai-edge-litert')}"
HOMES = {
    "flask": Home(("flask==3.1.3", "gunicorn==27.0.1"), shares=True),
    "mlserver": Home(("mlserver==1.7.1", "uvloop==0.21.0", ENGINE)),
    "litserve": Home(("litserve==0.2.19", ENGINE)),
    "torchserve": Home(("torchserve==0.12.0", "torch-model-archiver==0.12.0"), shares=True),
}


def post(path: str, body: bytes, kind: str, extra: str = "") -> bytes:
    """Return a whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}"
    return f"{head}\r\n".encode() + body


def json_tensors(subject: Subject) -> list[bytes]:
    """Ask by the Open Inference Protocol's JSON."""
    return [_open_inference(picture.ravel().tolist()) for picture in subject.pictures.astype(int)]


def _open_inference(data: list[int]) -> bytes:
    tensor = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "FP32", "data": data}
    return post(INFER, _json({"inputs": [tensor]}), "application/json")


def binary_tensors(subject: Subject) -> list[bytes]:
    """Ask by its binary extension."""
    size = {"parameters": {"binary_data_size": 12288}}
    head = _json(
        {
            "inputs": [{"name": "image", "shape": [1, 32, 32, 3], "datatype": "FP32", **size}],
            "parameters": {"binary_data_output": True},
        }
    )
    extra = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return [post(INFER, head + body, "application/octet-stream", extra) for body in subject.tensors()]


def grpc_messages(subject: Subject) -> list[bytes]:
    """Ask by its gRPC message, with raw contents."""
    from edgeferry_runtime.serving.rpc.messages import message

    tensor = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "FP32"}
    make = message("inference.ModelInferRequest")
    return [
        make(model_name="image", inputs=[tensor], raw_input_contents=[body]).SerializeToString()
        for body in subject.tensors()
    ]


def json_lists(subject: Subject) -> list[bytes]:
    """Ask by JSON of no protocol."""
    pictures = subject.pictures.astype(int)
    return [post("/predict", _json({"image": picture.ravel().tolist()}), "application/json") for picture in pictures]


def forms(subject: Subject) -> list[bytes]:
    """Ask by a form with a PNG file."""
    mark = "------------------------4f8c5e7d1a2b"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    kind, end = f"multipart/form-data; boundary={mark}", f"\r\n--{mark}--\r\n".encode()
    return [post("/predict", head.encode() + body + end, kind) for body in subject.files()]


def raw_tensors(subject: Subject) -> list[bytes]:
    """Ask by the bytes of a tensor."""
    return [post("/predictions/image", body, "application/octet-stream") for body in subject.tensors()]


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


INFER = "/v2/models/image/infer"


def ours(start: Start) -> list[str]:
    """Start `ferry serve`."""
    ports = ["--port", str(start.port), "--grpc-port", str(start.grpc_port), "--no-management", "--no-access-log"]
    return [str(start.python), "-m", "edgeferry_runtime", "serve", f"image={start.subject.bundle}", *ports]


def flask(start: Start) -> list[str]:
    """Start Flask under gunicorn, with threads, as its plain workers close a connection after each answer."""
    threads = ["--worker-class", "gthread", "--workers", str(WORKERS), "--threads", "16", "--keep-alive", "60"]
    where = ["--bind", f"127.0.0.1:{start.port}", "--chdir", str(PEERS), "--log-level", "error", "--timeout", "120"]
    return [start.tool("gunicorn"), *threads, *where, "flask_app:app"]


def litserve(start: Start) -> list[str]:
    """Start LitServe."""
    return [str(start.python), str(PEERS / "litserve_app.py"), str(start.port), str(WORKERS)]


def mlserver(start: Start) -> list[str]:
    """Start MLServer, in one process: its workers answered fewer than half as many here."""
    ports = {"http_port": start.port, "grpc_port": start.grpc_port, "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False, "metrics_dir": str(start.folder)}
    (start.folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "image", "implementation": "mlserver_model.ImageModel"}
    (start.folder / "model-settings.json").write_text(json.dumps(model))
    shutil.copyfile(PEERS / "mlserver_model.py", start.folder / "mlserver_model.py")
    return [start.tool("mlserver"), "start", str(start.folder)]


def torchserve(start: Start) -> list[str]:
    """Start TorchServe."""
    names = ["--model-name", "image", "--version", "1.0", "--handler", str(PEERS / "torchserve_handler.py")]
    files = ["--extra-files", str(start.subject.artifact), "--export-path", str(start.folder), "--force"]
    subprocess.run([start.tool("torch-model-archiver"), *names, *files], check=True)
    addresses = zip(("inference", "management", "metrics"), (start.port, free_port(), free_port()), strict=True)
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses]
    lines += [
        f"default_workers_per_model={WORKERS}",
        f"grpc_inference_port={free_port()}",
        f"grpc_management_port={free_port()}",
    ]
    config = start.folder / "config.properties"
    config.write_text("\n".join(lines) + "\n")
    where = ["--model-store", str(start.folder), "--models", "image=image.mar", "--ts-config", str(config)]
    return [start.tool("torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth", *where]


OPEN_INFERENCE = (
    Way("REST JSON", json_tensors, "open inference"),
    Way("gRPC", grpc_messages, "last tensor", grpc=True),
)
PICTURE = (Way("PNG file in a form", forms, "scores"),)

SERVERS = (
    Server(
        "ferry serve",
        "",
        ours,
        "/v2/health/ready",
        (Way("REST binary", binary_tensors, "last tensor"), *OPEN_INFERENCE),
    ),
    Server("Flask, gunicorn", "flask", flask, "/ready", PICTURE),
    Server("the same, Keras", "flask", flask, "/ready", PICTURE, keras=True),
    Server("MLServer", "mlserver", mlserver, "/v2/health/ready", OPEN_INFERENCE),
    Server("LitServe", "litserve", litserve, "/health", (Way("REST JSON", json_lists, "scores"),)),
    Server("TorchServe", "torchserve", torchserve, "/ping", (Way("REST, raw bytes", raw_tensors, "scores"),)),
)
"""Ours comes first."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(server: Server, subject: Subject, homes: Path) -> Iterator[Running]:
    """Run a server, in a folder that is gone afterwards."""
    python = HOMES[server.home].prepare(homes / server.home) if server.home else Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        start = Start(python, subject, free_port(), free_port(), Path(folder))
        with _process(server, start) as process:
            yield Running(start.port, start.grpc_port, process.pid)


@contextlib.contextmanager
def _process(server: Server, start: Start) -> Iterator[subprocess.Popen[bytes]]:
    subject, python, folder = start.subject, start.python, start.folder
    model = subject.source if server.keras else subject.artifact
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    log = folder / "log.txt"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **quiet, "MODEL": str(model), "PATH": path}
    with log.open("wb") as out:
        process = subprocess.Popen(
            server.command(start), stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
        )
        try:
            _await(server, start.port, process, log)
            yield process
        finally:
            _stop(process)


def _await(server: Server, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{server.ready}", timeout=5):
            return
        time.sleep(0.1)
    raise StartError(log.read_text(errors="replace")[-2000:])


class StartError(Exception):
    """A server that did not become ready; the text is the end of what it said."""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processor_seconds(session: int) -> float:
    """Return what all processes of a session have computed."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
