"""ONNX Runtime's providers: where this build has none, and on builds whose providers run in software."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_runtime.engines import Delegate, vulkan
from edgeferry_runtime.engines.delegate import BACKENDS
from edgeferry_runtime.engines.onnx_accelerated import _placement
from edgeferry_runtime.engines.onnx_placement import Placement, placement
from edgeferry_runtime.engines.onnx_providers import PROVIDERS, choose, first_reason
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.model import load

X = np.array([[[0.5, 1.0], [-0.25, 2.0]]], np.float32)
LOGS = {
    "\x1b[1;31m2026-01-02 10:20 [E:onnxruntime:Default, provider_bridge_ort.cc:2310 Create] /o/core/factory.cc:141 "
    "std::string onnxruntime::ep::Parse(std::shared_ptr<OVCore>) [ERROR] [OpenVINO] Device GPU is not available"
    "\n\x1b[m\n\x1b[0;93m2026-01-02 [W:onnxruntime:Default, state.cc:1] Failed to create\x1b[m": (
        "Device GPU is not available"
    ),
    "[E:onnxruntime:Default, bridge.cc:2458 operator()] /o/bridge.cc:2043 onnxruntime::Provider& onnxruntime::Library::"
    "Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library libx.so: libcublas.so.13: cannot open": (
        "Failed to load library libx.so: libcublas.so.13: cannot open"
    ),
    "[ONNXRuntimeError] : 1 : FAIL : Exception: /o/basic.cc:13 ep::B(int&) [OpenVINO-EP] Exception while Loading "
    "x: Exception from src/core.cpp:114:\nException from src/plugin.cpp:53:\nCheck 'a' failed: no dynamic rank": (
        "Check 'a' failed: no dynamic rank"
    ),
    "nothing of that kind": "nothing of that kind",
}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    json: dict[str, Any]
    err: str


Run = Callable[..., Done]


def _run_with(python: str, environment: dict[str, str]) -> Run:
    home = str(Path(edgeferry_runtime.__file__).parents[1])

    def run(*args: object) -> Done:
        command = [python, "-m", "edgeferry_runtime", "run", *map(str, args), "--json"]
        env = {**environment, "PYTHONPATH": home}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        return Done(done.returncode, json.loads(done.stdout or "{}"), done.stderr)

    return run


@pytest.fixture(scope="session")
def openvino(openvino_python: str) -> Run:
    """Run a file where ONNX Runtime has OpenVINO."""
    return _run_with(openvino_python, dict(os.environ))


@pytest.fixture(scope="session")
def webgpu(webgpu_python: str, lavapipe: dict[str, str]) -> Run:
    """Run a file where ONNX Runtime has WebGPU, on a software Vulkan."""
    return _run_with(webgpu_python, lavapipe)


@pytest.fixture
def chain(tiny, tmp_path: Path) -> Callable[..., Path]:
    """Make a file of operators, each applied to what the one before it gave: ``Add`` and ``Mul`` to twice the same."""

    def make(*operators: str, shape: tuple[int, ...] = (1, 2, 2), ends: tuple[int, ...] = (1, 2, 2)) -> Path:
        names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
        nodes = [
            tiny.onnx_node(op, [names[i]] * (1 + (op in ("Add", "Mul"))), [names[i + 1]])
            for i, op in enumerate(operators)
        ]
        path = tmp_path / "model.onnx"
        path.write_bytes(tiny.onnx_model(nodes, [tiny.onnx_value("x", shape)], [tiny.onnx_value("y", ends)]))
        np.save(tmp_path / "x.npy", X)
        return path

    return make


def told(run: Run, path: Path, delegate: str, *args: object) -> tuple[dict[str, Any], np.ndarray]:
    """Run a file, and return what is told of its execution, and its output."""
    out = path.with_name("out.npz")
    done = run(path, "--input", path.with_name("x.npy"), "--output", out, "--delegate", delegate, *args)
    assert done.code == 0, done.err
    return done.json["execution"], np.load(out)["y"]


def test_every_backend_has_its_provider() -> None:
    assert {(kind, name) for kind, names in BACKENDS.items() for name in names} == set(PROVIDERS)
    assert [name for kind, name in PROVIDERS if kind == "gpu"] == list(BACKENDS["gpu"])


@pytest.mark.parametrize(
    ("delegate", "available", "name"),
    [
        (Delegate("gpu"), ["WebGpuExecutionProvider", "CUDAExecutionProvider"], "CUDAExecutionProvider"),
        (Delegate("gpu"), ["WebGpuExecutionProvider"], "WebGpuExecutionProvider"),
        (Delegate("npu", name="openvino"), ["OpenVINOExecutionProvider"], "OpenVINOExecutionProvider"),
    ],
)
def test_a_kind_takes_the_first_provider_of_the_build(delegate: Delegate, available: list[str], name: str) -> None:
    assert choose(delegate, [*available, "CPUExecutionProvider"]).name == name


@pytest.mark.parametrize(
    ("delegate", "said"),
    [
        (
            Delegate("gpu", name="webgpu"),
            r"no such provider \(it has CPU\); install onnxruntime-webgpu \(webgpu\) in pl",
        ),
        (Delegate("gpu", name="cuda"), r"onnxruntime-gpu \(cuda\).*--delegate gpu:cuda,cpu|fallback: gpu:cuda,cpu"),
        (Delegate("cpu", name="openvino"), r"onnxruntime-openvino \(openvino\)"),
        (Delegate("edgetpu"), "is not available for ONNX artifacts; use a .tflite file"),
    ],
)
def test_a_provider_that_the_build_lacks_names_its_wheel(delegate: Delegate, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        choose(delegate, ["CPUExecutionProvider"])


@pytest.mark.skipif(sys.platform == "darwin", reason="its wheel has Core ML")
def test_wheels_are_named_for_this_system() -> None:
    with pytest.raises(EngineError) as error:
        choose(Delegate("gpu"), ["CPUExecutionProvider"])
    assert "coreml" not in error.value.fix
    assert "onnxruntime-gpu (cuda, tensorrt)" in error.value.fix
    with pytest.raises(EngineError, match="on a system that has it"):
        choose(Delegate("gpu", name="coreml"), ["CPUExecutionProvider"])


@pytest.mark.parametrize("log", LOGS)
def test_reasons_lose_time_place_and_signature(log: str) -> None:
    assert first_reason(log) == LOGS[log]


@pytest.mark.slow
def test_a_build_without_the_provider_is_an_error_and_never_the_cpu(chain) -> None:
    path = chain("Add", "Det", "Mul", ends=(1,))
    with pytest.raises(EngineError, match=r"--delegate gpu:webgpu: this build of ONNX Runtime has no such provider"):
        load(path, delegate="gpu:webgpu")
    with load(path, delegate="gpu:webgpu,cpu") as model:
        assert model.execution.delegate == "cpu"
        assert model.execution.nodes_total in (3, None)
        assert "no such provider" in model.execution.fallbacks[0]
        assert not model.execution.full


def test_what_cannot_be_counted_is_not_claimed(tmp_path: Path) -> None:
    class Refusing:
        def get_provider_graph_assignment_info(self) -> None:
            raise RuntimeError("no record")

    provider = PROVIDERS["gpu", "webgpu"]
    assert placement(None, tmp_path, object(), provider) == Placement()
    assert _placement(None, tmp_path, Refusing(), provider, (RuntimeError,)) == Placement()


def test_openvino_is_none_of_tflite(artifacts) -> None:
    with pytest.raises(EngineError, match="is not available for TFLite artifacts"):
        load(artifacts["double.tflite"], delegate="cpu:openvino")


def test_openvino_takes_all(chain, openvino: Run) -> None:
    execution, y = told(openvino, chain("Add", "Sigmoid", "Mul"), "cpu:openvino", "--require-full-delegation")
    assert execution["processor"] == "CPU, OpenVINO"
    assert [execution[key] for key in ("nodes_total", "nodes_delegated", "partitions", "full")] == [3, 3, 1, True]
    np.testing.assert_allclose(y, (1 / (1 + np.exp(-2 * X))) ** 2, rtol=1e-5)


def test_openvino_takes_part(chain, openvino: Run) -> None:
    path = chain("Add", "Det", "Mul", ends=(1,))
    execution, y = told(openvino, path, "cpu:openvino")
    assert execution["processor"] == "CPU, OpenVINO and the CPU"
    assert 0 < execution["nodes_delegated"] < execution["nodes_total"] == 3
    assert {"operator": "Det", "count": 1, "reason": None} in execution["left_behind"]
    np.testing.assert_allclose(y, np.linalg.det(2 * X) ** 2, rtol=1e-5)
    done = openvino(path, "--input", path.with_name("x.npy"), "--delegate", "cpu:openvino", "--require-full-delegation")
    assert done.code == 3
    assert "without 1 Add, 1 Det" in done.err


@pytest.mark.parametrize("kind", ["gpu", "npu"])
def test_openvino_without_the_processor_is_an_error(chain, openvino: Run, kind: str) -> None:
    path = chain("Add", "Sigmoid")
    x = path.with_name("x.npy")
    done = openvino(path, "--input", x, "--delegate", kind)
    assert done.code == 1
    assert f"--delegate {kind}: OpenVINOExecutionProvider cannot start (Device {kind.upper()} is not av" in done.err
    fallen = openvino(path, "--input", x, "--delegate", f"{kind},cpu:openvino")
    assert fallen.json["execution"]["delegate"] == "cpu:openvino"
    assert "is not available" in fallen.json["execution"]["fallbacks"][0]


def test_openvino_that_takes_nothing_is_an_error(chain, openvino: Run) -> None:
    path = chain("Det", ends=(1,))
    done = openvino(path, "--input", path.with_name("x.npy"), "--delegate", "cpu:openvino")
    assert done.code == 1
    assert "OpenVINOExecutionProvider takes none of the 1 nodes" in done.err


def test_webgpu_takes_all_and_says_that_it_is_software(chain, webgpu: Run) -> None:
    execution, y = told(webgpu, chain("Add", "Sigmoid", "Mul"), "gpu", "--require-full-delegation")
    assert execution["processor"] == "WebGPU on llvmpipe, software on the CPU"
    assert [execution[key] for key in ("nodes_total", "nodes_delegated", "partitions", "full")] == [3, 3, None, True]
    np.testing.assert_allclose(y, (1 / (1 + np.exp(-2 * X))) ** 2, rtol=1e-5)


def test_webgpu_takes_part(chain, webgpu: Run) -> None:
    path = chain("Add", "Det", "Mul", ends=(1,))
    execution, y = told(webgpu, path, "gpu:webgpu")
    assert [execution[key] for key in ("nodes_total", "nodes_delegated", "full")] == [3, 2, False]
    assert execution["left_behind"] == [{"operator": "Det", "count": 1, "reason": None}]
    np.testing.assert_allclose(y, np.linalg.det(2 * X) ** 2, rtol=1e-5)


@pytest.mark.zoo
def test_webgpu_counts_nodes_whose_layout_it_moves(webgpu: Run, zoo: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 1, 28, 28), np.float32))
    path = zoo / "qonnx/src/qonnx/data/onnx/mnist-conv/model.onnx"
    execution = webgpu(path, "--input", tmp_path / "x.npy", "--delegate", "gpu").json["execution"]
    assert (execution["nodes_delegated"], execution["nodes_total"], execution["left_behind"]) == (8, 8, [])


def test_webgpu_without_an_adapter_is_an_error(chain, webgpu_python: str, lavapipe: dict[str, str]) -> None:
    path = chain("Add")
    none = {**lavapipe, "VK_DRIVER_FILES": str(path.with_name("none.json"))}
    done = _run_with(webgpu_python, none)(path, "--input", path.with_name("x.npy"), "--delegate", "gpu")
    assert done.code == 1
    assert "WebGpuExecutionProvider cannot start (Failed to get a WebGPU adapter" in done.err


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ("7f r-xp 08:01 12 /usr/lib/x86_64-linux-gnu/libvulkan_lvp.so\n" * 2, "llvmpipe, software on the CPU"),
        ("7f r-xp 08:01 12 /usr/lib/libvulkan_broadcom.so\n", "GPU of the Vulkan driver broadcom"),
        ("7f r-xp 08:01 12 /usr/lib/libGLX_nvidia.so.0\n", "GPU of the Vulkan driver nvidia"),
        ("a /l/libvulkan_lvp.so\nb /l/libvulkan_intel.so\n", "an adapter that is not named (intel or lvp)"),
        ("a /usr/lib/libvulkan.so.1.3\n", "an adapter that is not named"),
    ],
)
def test_the_vulkan_driver_tells_what_executes(maps: str, words: str) -> None:
    assert vulkan.adapter_words(vulkan.parse_drivers(maps)) == words


def test_this_process_may_have_no_vulkan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vulkan, "MAPS", tmp_path / "absent")
    assert vulkan.adapter() == "an adapter that is not named"
