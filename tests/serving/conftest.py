"""Bundles of the small trained digits models, and servers that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeferry_converter.conversion import convert
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.serving.server import Serving, serving
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Address, Placed, Settings

sys.path.insert(0, str(Path(__file__).parent))

MODELS = Path(__file__).parents[1] / "converter" / "models"
CLIENTS = Path(__file__).parent / "clients"
RESNET8 = "mlperf-tiny/benchmark/training/image_classification/trained_models"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ANYWHERE = Address(port=0, grpc_port=0, management_port=0)


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process.

    Attributes:
        service: Its heart, which belongs to `loop`.
        http: ``http://127.0.0.1:PORT``.
        grpc: ``127.0.0.1:PORT``.
        management: ``http://127.0.0.1:PORT``.
        loop: Its event loop.
    """

    service: Service
    http: str
    grpc: str
    management: str
    loop: asyncio.AbstractEventLoop

    def do(self, work: Any) -> Any:
        """Run a coroutine in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def figures(self) -> list[str]:
        """Return the lines of its /metrics."""
        with urllib.request.urlopen(f"{self.http}/metrics", timeout=60) as told:
            text: str = told.read().decode()
        return text.splitlines()


Serve = Callable[..., AbstractContextManager[Running]]


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """Serve in a thread."""
    started, stop = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def life() -> None:
        try:
            async with serving(settings) as server:
                found.extend([server, asyncio.get_running_loop()])
                started.set()
                await stop.wait()
        except BaseException as error:
            found[:] = [error]
            raise
        finally:
            started.set()

    def thread() -> None:
        with contextlib.suppress(Exception):
            asyncio.run(life())

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait()
    if isinstance(found[0], BaseException):
        worker.join()
        raise found[0]
    server, loop = found
    assert isinstance(server, Serving)
    scheme = "https" if settings.address.certificate else "http"
    at = [f"127.0.0.1:{port}" for port in (server.http, server.grpc, server.management)]
    try:
        yield Running(server.service, f"{scheme}://{at[0]}", at[1], f"http://{at[2]}", loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        worker.join()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serve bundles by name, with settings changed: ``serve(digits=PATH, execution=...)``."""

    def start(changes: dict[str, Any] | None = None, /, **bundles: Path) -> AbstractContextManager[Running]:
        placed = tuple(Placed(name, path) for name, path in bundles.items())
        return running(replace(Settings(placed, address=ANYWHERE), **(changes or {})))

    return start


@pytest.fixture(scope="session")
def client_python(pytestconfig: pytest.Config, missing: Callable[[str], None]) -> Path:
    """The Python of the environment that other projects' clients have to themselves."""
    python = pytestconfig.rootpath / "build" / "clients" / "bin" / "python"
    if not (python.parents[1] / ".ready").exists():
        missing("other projects' clients are not installed: run `make clients`")
    return python


@pytest.fixture(scope="session")
def client(client_python: Path) -> Callable[..., str]:
    """Run a script of ``clients/`` there, and return what it prints: ``client("oip_http.py", URL, ...)``."""

    def run(script: str, *args: object) -> str:
        line = [client_python, CLIENTS / script, *map(str, args)]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def pictures() -> np.ndarray[Any, Any]:
    """64 pictures of digits that the models have not seen, float32 [64, 1, 8, 8] in 0..1."""
    with np.load(MODELS / "digits.npz") as data:
        key = next(k for k in data if data[k].dtype.kind == "f")
        found: np.ndarray[Any, Any] = data[key]
    return found.astype(np.float32).reshape(-1, 1, 8, 8)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits model by kind: ``float`` and ``int8`` (TFLite, a batch of one), and ``onnx``.

    The inputs and outputs of ``int8`` are stored as int8.
    Inputs: ``image`` [1, 1, 8, 8]. Outputs: ``digit`` [1, 10], probabilities, and ``features`` [1, 16, 1, 1].
    """
    folder = tmp_path_factory.mktemp("bundles")
    labels = folder / "labels.txt"
    labels.write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    data = MODELS / "digits.npz"
    convert(MODELS / "digits.tflite", folder / "float", labels=labels)
    convert(MODELS / "digits.tflite", folder / "int8", quantize="int8", io_dtype="int8", calibrate=data, labels=labels)
    convert(MODELS / "digits.onnx", folder / "onnx", to="onnx", labels=labels)
    return {kind: folder / kind for kind in ("float", "int8", "onnx")}


@pytest.fixture(scope="session")
def naming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model in a bundle that names what a picture shows."""
    folder = tmp_path_factory.mktemp("naming")
    (folder / "labels.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    how = Preprocess(resize=(8, 8), scale=1 / 255, layout="NCHW", color="gray")
    return convert(MODELS / "digits.tflite", folder / "digits", labels=folder / "labels.txt", preprocess=how).path


@pytest.fixture(scope="session")
def people(serve: Serve, naming: Path, bundles: dict[str, Path]) -> Iterator[Running]:
    """A server for tests that change nothing: ``digits`` names pictures, ``blind`` does not."""
    with serve(blind=bundles["float"], digits=naming) as found:
        yield found


TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="session")
def secured(serve: Serve, naming: Path) -> Iterator[tuple[Running, str]]:
    """The same, for those who show a token alone, and the token."""
    with serve({"address": replace(ANYWHERE, token=TOKEN)}, digits=naming) as found:
        yield found, TOKEN


@pytest.fixture(scope="session")
def png(pictures: np.ndarray[Any, Any]) -> Callable[[int], bytes]:
    """One of the pictures as a PNG file."""

    def drawn(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.rint(pictures[index, 0] * 255).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    return drawn


@pytest.fixture(scope="session")
def server(serve: Serve, bundles: dict[str, Path]) -> Iterator[Running]:
    """One server of all three, for tests that change nothing: ``digits`` (int8), ``float`` and ``onnx``."""
    with serve(digits=bundles["int8"], float=bundles["float"], onnx=bundles["onnx"]) as found:
        yield found


@pytest.fixture(scope="session")
def resnet(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLPerf Tiny's ResNet8, trained on CIFAR-10 and stored as int8: pictures [?, 32, 32, 3] in, 10 scores out."""
    folder = tmp_path_factory.mktemp("resnet")
    labels = folder / "labels.txt"
    labels.write_text("\n".join(CLASSES))
    convert(zoo / RESNET8 / "pretrainedResnet_quant.tflite", folder / "resnet", labels=labels)
    return folder / "resnet"


@pytest.fixture(scope="session")
def seen() -> np.ndarray[Any, Any]:
    """Pictures of 3 x 32 x 32 pixels with edges and areas, uint8 in 0..255."""
    dice = np.random.default_rng(8)
    return np.kron(dice.integers(0, 256, (3, 8, 8, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
