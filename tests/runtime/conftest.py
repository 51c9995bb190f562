"""Tiny models on disk, alone and in bundles."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.bundle import LABELS, PROBE, Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.model import load

MODULES = {
    "ai_edge_litert": ("ai_edge_litert", "tflite_runtime", "tensorflow"),
    "onnxruntime": ("onnxruntime",),
    "Pillow": ("PIL",),
}
"""By what a test is said to lack, all modules that would do. The suite runs where there is one engine alone, too."""


def _skip_without(said: str) -> None:
    """Skip the rest of a test that needs what is truly not there. A test that hides a module sees its error."""
    if "tflite_runtime has no profiler" in said:
        pytest.skip("tflite_runtime has no profiler")
    lacks = re.search(r"needs (\w+), which is not installed", said)
    if lacks is None or lacks[1] not in MODULES:
        return
    names = MODULES[lacks[1]]
    hidden = any(name in sys.modules and sys.modules[name] is None for name in names)
    if not hidden and not any(importlib.util.find_spec(name) for name in names):
        pytest.skip(f"needs {lacks[1]}, which is not installed here")


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except EdgeferryError as error:
        _skip_without(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip a test that needs what is not installed."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Skip a test whose fixtures need what is not installed."""
    return (yield from _skipping())


def _tiny_models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module that builds the models."""
    return _tiny_models()


@pytest.fixture(scope="session")
def artifacts(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every tiny model as a file, by ``kind.format``."""
    folder = tmp_path_factory.mktemp("artifacts")
    files = {
        "double.tflite": tiny.tflite_double(),
        "batch.tflite": tiny.tflite_double(dynamic=True),
        "int8.tflite": tiny.tflite_logistic_int8(),
        "pair.tflite": tiny.tflite_pair(),
        "dense.tflite": tiny.tflite_dense(16, 2),
        "second.tflite": tiny.tflite_second_subgraph(),
        "two.tflite": tiny.tflite_two_signatures(),
        "double.onnx": tiny.onnx_double(),
        "batch.onnx": tiny.onnx_double(dynamic=True),
        "int8.onnx": tiny.onnx_identity_int8(),
        "pair.onnx": tiny.onnx_pair(),
        "dense.onnx": tiny.onnx_dense(16, 2),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


@pytest.fixture(scope="session")
def lavapipe() -> dict[str, str]:
    """The environment of a process in which software Vulkan is the only GPU."""
    named = os.environ.get("EDGEFERRY_LAVAPIPE")
    if not named:
        pytest.skip(
            "EDGEFERRY_LAVAPIPE is not set: it names the driver manifest (lvp_icd.*.json) of Mesa 24 or newer, "
            "Debian's mesa-vulkan-drivers, whose software Vulkan stands in for a GPU"
        )
    library = Path(json.loads(Path(named).read_text())["ICD"]["library_path"])
    folders = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {**os.environ, "VK_DRIVER_FILES": named, "LD_LIBRARY_PATH": ":".join(folders)}


def _python(variable: str, wheel: str) -> str:
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"{variable} is not set: it names a Python that has click and {wheel}, which excludes onnxruntime")
    return found


@pytest.fixture(scope="session")
def openvino_python() -> str:
    """A Python whose ONNX Runtime has OpenVINO."""
    return _python("EDGEFERRY_OPENVINO_PYTHON", "onnxruntime-openvino")


@pytest.fixture(scope="session")
def webgpu_python() -> str:
    """A Python whose ONNX Runtime has WebGPU."""
    return _python("EDGEFERRY_WEBGPU_PYTHON", "onnxruntime-webgpu")


@pytest.fixture
def make_bundle(artifacts: dict[str, Path], tmp_path: Path) -> Callable[..., Bundle]:
    """Make a bundle of a tiny model, or of one in a file, whose probe is what the model itself answers.

    Keyword arguments change the manifest; `order` names the inputs and outputs as the source had them.
    """

    def make(kind: str | Path, labels: tuple[str, ...] = (), order: Any = None, **manifest: Any) -> Bundle:
        artifact = kind if isinstance(kind, Path) else artifacts[kind]
        with load(artifact) as model:
            feeds = [{s.name: np.full(s.shape, i, np.float32) for s in model.inputs} for i in (1, 2)]
            answers = [model.run(feed) for feed in feeds]
            inputs = {s.name: s for s in model.inputs}
            outputs = {s.name: s for s in model.outputs}
        names = order or (list(inputs), list(outputs))
        probe = Probe(
            {name: np.stack([feed[name] for feed in feeds]) for name in inputs},
            {name: np.stack([answer[name] for answer in answers]) for name in outputs},
        )
        described = Manifest(
            name="tiny",
            artifact=f"model{artifact.suffix}",
            format=artifact.suffix[1:],
            precision="none",
            inputs=tuple(inputs[name] for name in names[0]),
            outputs=tuple(outputs[name] for name in names[1]),
            source={"name": "tiny"},
            **manifest,
        )

        def fill(folder: Path) -> None:
            (folder / described.artifact).write_bytes(artifact.read_bytes())
            probe.save(folder / PROBE)
            if labels:
                (folder / LABELS).write_text("\n".join(labels) + "\n")

        return write_bundle(tmp_path / "bundle", described, fill)

    return make


@pytest.fixture
def ferry(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: exit status, stdout, stderr."""
    from edgeferry_runtime.cli import main

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        code, (out, err) = int(ended.value.code or 0), capfd.readouterr()
        if code:
            _skip_without(err)
        return code, out, err

    return call
