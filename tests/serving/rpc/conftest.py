"""Calls over gRPC with the messages that the server itself reads, and a server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from watching import until

from edgeferry_runtime.serving.datatypes import NAMES, dtype_of
from edgeferry_runtime.serving.rpc.messages import message

Array = np.ndarray[Any, Any]
SERVICES = {
    "inference": "inference.GRPCInferenceService",
    "prediction": "tensorflow.serving.PredictionService",
    "models": "tensorflow.serving.ModelService",
    "health": "grpc.health.v1.Health",
}


@dataclass(frozen=True)
class Rpc:
    """Calls methods of a server by names such as ``inference/ModelInfer``."""

    channel: grpc.Channel

    def path(self, method: str) -> str:
        service, _, name = method.partition("/")
        return f"/{SERVICES[service]}/{name}"

    def send(self, method: str, data: bytes, **options: Any) -> bytes:
        """Send bytes, whatever they are."""
        found: bytes = self.channel.unary_unary(self.path(method))(data, **{"timeout": 60, **options})
        return found

    def call(self, method: str, request: str, answer: str, /, **fields: Any) -> Any:
        """Send a message of the service's package, and read the answer."""
        package = SERVICES[method.partition("/")[0]].rpartition(".")[0]
        data = message(f"{package}.{request}")(**fields).SerializeToString()
        return message(f"{package}.{answer}").FromString(self.send(method, data))

    def refused(self, method: str, sent: Any = b"", **options: Any) -> tuple[str, str]:
        """Send bytes or a message, and return the name of the status code, and the details."""
        data = sent if isinstance(sent, bytes) else sent.SerializeToString()
        with pytest.raises(grpc.RpcError) as raised:
            self.send(method, data, **options)
        return raised.value.code().name, raised.value.details()  # type: ignore[attr-defined]

    def asked(self, model: str, /, **feeds: Array) -> Any:
        """Make a ModelInferRequest with raw contents."""
        request = message("inference.ModelInferRequest")(model_name=model)
        for name, value in feeds.items():
            request.inputs.add(name=name, datatype=NAMES[value.dtype], shape=value.shape)
            request.raw_input_contents.append(value.tobytes())
        return request

    def infer(self, request: Any) -> Any:
        """Send a ModelInferRequest."""
        data = self.send("inference/ModelInfer", request.SerializeToString())
        return message("inference.ModelInferResponse").FromString(data)

    def arrays(self, response: Any) -> dict[str, Array]:
        """Return the raw outputs of a ModelInferResponse."""
        pairs = zip(response.outputs, response.raw_output_contents, strict=True)
        return {out.name: np.frombuffer(raw, dtype_of(out.datatype)).reshape(out.shape) for out, raw in pairs}


Connect = Callable[..., AbstractContextManager[Rpc]]


@pytest.fixture(scope="session")
def connect() -> Connect:
    """Connect to an address, by a connection of its own: ``with connect(server.grpc) as rpc``."""

    @contextmanager
    def connected(address: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Rpc]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        make = grpc.secure_channel if credentials else grpc.insecure_channel
        with make(address, *([credentials] if credentials else []), options=options) as channel:
            yield Rpc(channel)

    return connected


@pytest.fixture(scope="session")
def rpc(server: Any, connect: Connect) -> Iterator[Rpc]:
    """Calls of the server that the tests share."""
    with connect(server.grpc) as found:
        yield found


@pytest.fixture
def withdrawn(serve: Any, connect: Connect, bundles: dict[str, Path]) -> Callable[[str, Any], bytes]:
    """Send a request that is read aside, and unload its model meanwhile; return the answer."""

    def ask(method: str, request: Any) -> bytes:
        with serve(digits=bundles["onnx"]) as server, connect(server.grpc) as rpc:
            server.do(server.service.reading.acquire())
            call = rpc.channel.unary_unary(rpc.path(method)).future(request.SerializeToString(), timeout=60)
            until(lambda: server.service.reading._waiters or call.done())
            unloading = asyncio.run_coroutine_threadsafe(server.service.repository.unload("digits"), server.loop)
            until(lambda: not server.service.repository.versions("digits"))
            server.loop.call_soon_threadsafe(server.service.reading.release)
            found: bytes = call.result()
            unloading.result(60)
            return found

    return ask


@dataclass
class Apart:
    """A server in a process of its own, on uvloop.

    Attributes:
        grpc: ``127.0.0.1:PORT``.
        process: The process.
        said: Where its stderr goes.
    """

    grpc: str
    process: subprocess.Popen[str]
    said: Path


@pytest.fixture(scope="module")
def apart(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """``ferry serve`` of ``digits`` (int8), which at the end finishes what is in flight, and has told no traceback."""
    said = tmp_path_factory.mktemp("apart") / "stderr"
    line = [sys.executable, "-m", "edgeferry_runtime", "serve", f"digits={bundles['int8']}", "--json"]
    ports = ["--port", "0", "--grpc-port", "0", "--management-port", "0", "--timeout", "5s"]
    with said.open("w") as stderr, subprocess.Popen([*line, *ports], stdout=-1, stderr=stderr, text=True) as process:
        assert process.stdout
        told = json.loads(process.stdout.readline() or "{}")
        assert told, said.read_text()
        yield Apart(f"127.0.0.1:{told['grpc_port']}", process, said)
        process.terminate()
        assert process.wait(60) == 0
    assert "Traceback" not in said.read_text()
