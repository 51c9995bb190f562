"""HTTP ports with an application of the tests' own, ``ferry serve`` as a process, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_converter.conversion import convert
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import on_error
from edgeferry_runtime.serving.rest.guard import Guard
from edgeferry_runtime.serving.rest.listener import Place, bind, http_listener
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Limits, Settings
from edgeferry_runtime.serving.telling import Telling

sys.path.insert(0, str(Path(__file__).parent))

from unruly import Answer, Client
from watching import PATIENCE_S, until


@dataclass
class Port:
    """An HTTP port in a thread of this process.

    Attributes:
        port: Its number.
        service: What stands behind it.
        told: The lines of its access log.
        guard: What stands before the application.
    """

    port: int
    service: Service
    told: list[dict[str, Any]]
    guard: Guard

    def connect(self) -> Client:
        """Connect."""
        return Client(self.port)

    def ask(self, request: bytes) -> Answer:
        """Send one request and read its answer."""
        with self.connect() as client:
            return client.send(request).answer()

    def open(self) -> int:
        """Count the connections that are open."""
        ours = f":{self.port:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return sum(local.endswith(ours) and state == "01" for _, local, _, state, *_ in lines)

    def wait_told(self, **wanted: object) -> dict[str, Any]:
        """Wait for a line of the log."""
        return until(lambda: next((t for t in list(self.told) if wanted.items() <= t.items()), None))


async def echo(request: Request) -> Response:
    """Answer with the body."""
    return Response(await request.body())


async def later(request: Request) -> Response:
    """Read the body after so many seconds."""
    await asyncio.sleep(request.path_params["seconds"])
    return Response(await request.body())


async def unread(request: Request) -> Response:
    """Answer without reading the body."""
    return Response(b"never read", 422)


async def large(request: Request) -> Response:
    """Answer with so many bytes."""
    return Response(bytes(int(request.path_params["size"])))


async def wait(request: Request) -> Response:
    """Answer after a moment."""
    await asyncio.sleep(0.1)
    return Response(request.path_params["word"])


async def ping(request: Request) -> Response:
    """Answer."""
    return Response(b"pong")


async def broken(request: Request) -> Response:
    """Fail as nobody expects."""
    raise RuntimeError(f"the secret of {__file__}")


ROUTES = [
    Route("/echo", echo, methods=["POST"]),
    Route("/later/{seconds:float}", later, methods=["POST"]),
    Route("/unread", unread, methods=["POST"]),
    Route("/large/{size}", large),
    Route("/wait/{word}", wait),
    Route("/broken", broken),
    Route("/ping", ping),
]


@contextlib.contextmanager
def listening(
    limits: Limits,
    token: str | None = None,
    loop: Any = uvloop.new_event_loop,
    context: Any = None,
    local: bool = False,
) -> Iterator[Port]:
    """Listen in a thread."""
    told: list[dict[str, Any]] = []
    started, found, stop = threading.Event(), [], asyncio.Event()

    async def life() -> None:
        service, telling = Service(Repository(Settings()), limits), Telling(lambda line: told.append(json.loads(line)))
        app = Starlette(routes=ROUTES, exception_handlers={EdgeferryError: on_error, Exception: on_error})
        guard = Guard(app, service, telling, token, local)
        async with http_listener(guard, telling, limits, bind(Place("127.0.0.1", 0)), context) as port:
            found.extend([Port(port, service, told, guard), asyncio.get_running_loop()])
            started.set()
            await stop.wait()

    def run() -> None:
        with contextlib.closing(loop()) as ours:
            ours.run_until_complete(life())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(stop.set)
        thread.join()


Listen = Callable[..., AbstractContextManager[Port]]


@pytest.fixture(scope="session")
def listen() -> Listen:
    """Listen with limits, and a token if there is to be one."""
    return listening


@dataclass
class Ferry:
    """``ferry serve`` as a process."""

    process: subprocess.Popen[str]
    told: dict[str, Any]
    stderr: Path

    def connect(self) -> Client:
        """Connect to its HTTP port."""
        return Client(self.told["port"])

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.told["port"], timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def infer(self, x: float) -> Answer:
        """Let the slow model work for about `x` times 35 ms."""
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [x]}
        return self.ask("/v2/models/slow/infer", json.dumps({"inputs": [tensor]}).encode())

    def figure(self, name: str) -> float:
        """Read one of its figures."""
        text = self.ask("/metrics").body.decode()
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def running(
    folder: Path, *args: object, files: int = 0, environment: dict[str, str] | None = None, stderr: Any = None
) -> Iterator[Ferry]:
    """Start ``ferry serve``, wait until it listens, and end it."""
    command = [sys.executable, "-m", "edgeferry_runtime", "serve", *map(str, args), "--port", "0", "--json"]
    limited = ["sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files)] if files else []
    log = folder / "stderr"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*limited, *command],
            stdout=subprocess.PIPE,
            stderr=stderr or out,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Ferry(process, json.loads(line), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


Run = Callable[..., AbstractContextManager[Ferry]]


@pytest.fixture
def ferry(tmp_path: Path) -> Run:
    """Start ``ferry serve`` with arguments, and perhaps another environment, stderr, or fewer open files."""

    def start(*args: object, **options: Any) -> AbstractContextManager[Ferry]:
        return running(tmp_path, *args, "--no-grpc", "--no-management", **options)

    return start


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that returns its input `x` [1, 1] after about `x` times 35 ms, in one call of ONNX Runtime."""
    onnx = pytest.importorskip("onnx")
    make, real, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

    def value(name: str, kind: int, *shape: int) -> Any:
        return make.make_tensor_value_info(name, kind, shape)

    body = make.make_graph(
        [make.make_node("Identity", ["go"], ["on"]), make.make_node("Mul", ["v", "one"], ["w"])],
        "body",
        [value("i", whole), value("go", onnx.TensorProto.BOOL), value("v", real, 1, 1)],
        [value("on", onnx.TensorProto.BOOL), value("w", real, 1, 1)],
    )
    nodes = [
        make.make_node("Mul", ["x", "rate"], ["scaled"]),
        make.make_node("Cast", ["scaled"], ["counted"], to=whole),
        make.make_node("Reshape", ["counted", "scalar"], ["trips"]),
        make.make_node("Loop", ["trips", "", "x"], ["y"], body=body),
    ]
    constants = {"rate": np.full((1, 1), 20000, "f4"), "one": np.ones((1, 1), "f4"), "scalar": np.zeros(0, "i8")}
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = make.make_graph(nodes, "slow", [value("x", real, 1, 1)], [value("y", real, 1, 1)], weights)
    folder = tmp_path_factory.mktemp("slow")
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), folder / "slow.onnx")
    convert(folder / "slow.onnx", folder / "bundle", to="onnx")
    return folder / "bundle"
