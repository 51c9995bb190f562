"""Bundles whose answers tell which release they came from, and folders in which they appear."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from watching import PATIENCE_S

from edgeferry_runtime.bundle import PROBE, Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.settings import Execution, Placed, Settings
from edgeferry_runtime.tensors import TensorSpec

TINY = Path(__file__).parents[2] / "runtime" / "tiny_models.py"
WIDTH = 4
ONE = Execution(workers=1)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module that builds tiny models."""
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plus(tiny: ModuleType) -> Callable[..., bytes]:
    """Build ``y = x + number``, an ONNX file of float32 [rows, 4]; `padding` floats of weights come to nothing."""

    def build(number: float, rows: int | str = "n", padding: int = 0) -> bytes:
        constants = [tiny.onnx_constant("c", np.full(WIDTH, number, np.float32))]
        nodes = [tiny.onnx_node("Add", ["x", "c"], ["s" if padding else "y"])]
        if padding:
            constants.append(tiny.onnx_constant("w", np.zeros(padding, np.float32)))
            nodes += [tiny.onnx_node("ReduceSum", ["w"], ["z"], keepdims=0), tiny.onnx_node("Add", ["s", "z"], ["y"])]
        x, y = (tiny.onnx_value(name, [rows, WIDTH]) for name in "xy")
        return bytes(tiny.onnx_model(nodes, [x], [y], constants))

    return build


@pytest.fixture(scope="session")
def plus_tflite(tiny: ModuleType) -> Callable[[float], bytes]:
    """Build ``y = x + number``, a TFLite file of float32 [1, 4], which is mapped while it runs."""

    def build(number: float) -> bytes:
        graph = tiny.Graph()
        x, y = graph.tensor("x", (1, WIDTH)), graph.tensor("y", (1, WIDTH))
        constant = graph.tensor("c", (WIDTH,), data=np.full(WIDTH, number, np.float32))
        graph.operator("ADD", (x, constant), (y,))
        return bytes(graph.file((x,), (y,)))

    return build


@pytest.fixture(scope="session")
def make(plus: Callable[..., bytes]) -> Callable[..., Bundle]:
    """Write the bundle of ``y = x + number``; `wrong` spoils its golden outputs, `model` is another file."""

    def build(path: Path, number: float, *, wrong: float = 0, model: bytes | None = None, **options: Any) -> Bundle:
        rows = options.get("rows", "n")
        spec = TensorSpec("x", (rows if isinstance(rows, int) else -1, WIDTH), "float32")
        samples = np.arange(2 * (rows if isinstance(rows, int) else 1) * WIDTH, dtype=np.float32)
        inputs = samples.reshape(2, -1, WIDTH)
        probe = Probe({"x": inputs}, {"y": inputs + np.float32(number + wrong)})
        content = model if model is not None else plus(number, **options)
        kind = "tflite" if content[4:8] == b"TFL3" else "onnx"
        specs = (spec,), (replace(spec, name="y"),)
        told = Manifest("plus", f"model.{kind}", kind, "none", *specs, {"name": "plus"}, Tolerance(max_abs=1e-5))

        def fill(folder: Path) -> None:
            (folder / told.artifact).write_bytes(content)
            probe.save(folder / PROBE)

        path.parent.mkdir(parents=True, exist_ok=True)
        return write_bundle(path, told, fill)

    return build


@pytest.fixture
def release(tmp_path: Path, make: Callable[..., Bundle]) -> Callable[..., Path]:
    """Publish a release in a device's folder of bundle `name`, as a push does; returns that folder."""

    def publish(number: float, name: str = "plus", **options: Any) -> Path:
        folder = tmp_path / "device" / "bundles" / name
        switch(make(tmp_path / "parts", number, **options), folder)
        return folder

    return publish


def switch(bundle: Bundle, folder: Path) -> None:
    """Move a bundle to a device's folder of releases, and make it the current one."""
    target = folder / "releases" / bundle.id
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        bundle.path.rename(target)
    fresh = folder / ".current.new"
    fresh.symlink_to(Path("releases") / bundle.id)
    fresh.replace(folder / "current")


def replace_folder(bundle: Bundle, folder: Path) -> None:
    """Put a bundle in the place of another one, as `ferry convert -o` does."""
    if folder.exists():
        folder.rename(folder.with_name(f".{folder.name}.old"))
    bundle.path.rename(folder)
    shutil.rmtree(folder.with_name(f".{folder.name}.old"), ignore_errors=True)


@pytest.fixture(params=["plain", "device"])
def publish(request: pytest.FixtureRequest) -> Callable[[Bundle, Path], None]:
    """Let a bundle that is made take the place of what counts in a folder, of either kind."""
    return {"plain": replace_folder, "device": switch}[request.param]


class Watched:
    """A repository that looks often, and what it has said."""

    def __init__(self, settings: Settings) -> None:
        self.said: list[str] = []
        self.repository = Repository(settings, self.said.append)

    async def __aenter__(self) -> Watched:
        try:
            await self.repository.start()
        except BaseException:
            await self.repository.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.repository.close()

    async def until(self, words: str, times: int = 1) -> str:
        """Wait until it has said something so many times."""
        deadline = time.monotonic() + PATIENCE_S
        while sum(words in line for line in self.said) < times:
            assert time.monotonic() < deadline, f"{words!r} is not among {self.said}"
            await asyncio.sleep(0.005)
        return next(line for line in reversed(self.said) if words in line)

    async def ask(self, name: str, version: str | int | None = None) -> float:
        """Ask a model, and return the number of the release that answered."""
        with self.repository.find(name, version).held() as found:
            x = np.zeros((1, WIDTH), np.float32)
            deadline = asyncio.get_running_loop().time() + PATIENCE_S
            done = await found.primary.run({"x": x}, {"y": False}, deadline)
            return float(done.result["y"][0, 0])

    def listed(self) -> list[tuple[str, int, str]]:
        return [(line.name, line.version, line.state.value) for line in self.repository.index()]


Watch = Callable[..., Watched]


@pytest.fixture
def watch() -> Watch:
    """Make a repository: ``watch({name: path}, repository=...)``."""

    def start(placed: dict[str, Path] | None = None, **changes: Any) -> Watched:
        parts = [(*name.partition("@"), path) for name, path in (placed or {}).items()]
        models = tuple(Placed(name, path, int(version) if version else None) for name, _, version, path in parts)
        return Watched(replace(Settings(models, poll_s=0.02, execution=ONE), **changes))

    return start


@pytest.fixture
def scratches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which nobody else uses."""
    place = tmp_path / "scratches"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a test's coroutine."""
    return asyncio.run
