"""LiteRT's accelerators: where there is none, and on a software Vulkan on which the GPU's truly runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.engines import Delegate
from edgeferry_runtime.engines.litert_compiled import Artifact, missing_instructions, open_compiled
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.model import load
from edgeferry_runtime.tensors import TensorSpec

PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
X86 = "processor\t: 0\nflags\t\t: fpu vme de pse\n"
X = np.array([[0.1, 0.2, 0.3, -1.7]], np.float32)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    json: dict[str, Any]
    err: str


def _ferry(environment: dict[str, str], *args: object) -> Done:
    command = [sys.executable, "-m", "edgeferry_runtime", *map(str, args), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    return Done(done.returncode, json.loads(done.stdout or "{}"), done.stderr)


@pytest.fixture
def make(tiny, tmp_path: Path):
    """Make a file that doubles, applies an operator, and doubles again."""

    def make_chain(operator: str, signature: list[int] | None = None) -> Path:
        graph = tiny.Graph()
        t = [graph.tensor(name, [1, 4], signature=signature) for name in "xaby"]
        graph.operator("ADD", [t[0], t[0]], [t[1]])
        graph.operator(operator, [t[1]], [t[2]])
        graph.operator("ADD", [t[2], t[2]], [t[3]])
        path = tmp_path / "model.tflite"
        path.write_bytes(graph.file([t[0]], [t[3]]))
        return path

    return make_chain


def expected(x: np.ndarray) -> np.ndarray:
    return 2 / (1 + np.exp(-2 * x.astype(np.float64)))


def test_the_gpu_truly_runs(make, lavapipe: dict[str, str], tmp_path: Path) -> None:
    """Half precision is the evidence that no promise of LiteRT's can give: the CPU is a thousand times closer."""
    path, x, out = make("LOGISTIC"), tmp_path / "x.npy", tmp_path / "out.npz"
    np.save(x, X)
    off = {}
    for delegate in ("gpu", "cpu"):
        done = _ferry(lavapipe, "run", path, "--input", x, "--output", out, "--delegate", delegate)
        assert done.code == 0, done.err
        off[delegate] = np.abs(np.load(out)["y"] - expected(X)).max()
        told = done.json["execution"]
        assert (told["delegate"], told["nodes_delegated"], told["nodes_total"]) == (delegate, 3, 3)
        assert told["full"]
        assert "llvmpipe" in told["processor"] if delegate == "gpu" else told["processor"].startswith("CPU")
    assert off["cpu"] < 1e-6
    assert 1e-5 < off["gpu"] < 1e-2


def test_full_delegation_to_the_gpu(make, lavapipe: dict[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    options = ("--input", tmp_path / "x.npy", "--delegate", "gpu", "--require-full-delegation")
    assert _ferry(lavapipe, "run", make("LOGISTIC"), *options).code == 0


def test_the_gpu_takes_other_shapes(make, lavapipe: dict[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.repeat(X, 3, axis=0))
    path, out = make("LOGISTIC", signature=[-1, 4]), tmp_path / "out.npz"
    done = _ferry(lavapipe, "run", path, "--input", tmp_path / "x.npy", "--output", out, "--delegate", "gpu")
    assert done.code == 0, done.err
    np.testing.assert_allclose(np.load(out)["y"], expected(np.repeat(X, 3, axis=0)), atol=1e-2)


def test_inputs_and_outputs_keep_their_names(artifacts, lavapipe: dict[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.full((2, 3), 5, np.float32), b=np.ones((2, 3), np.float32))
    options = ("--input", tmp_path / "x.npz", "--output", tmp_path / "out.npz", "--delegate", "gpu:webgpu")
    done = _ferry(lavapipe, "run", artifacts["pair.tflite"], *options)
    assert done.code == 0, done.err
    found = np.load(tmp_path / "out.npz")
    assert (found["total"].max(), found["gap"].max()) == (6, -4)


def test_a_node_that_the_gpu_does_not_take(make, lavapipe: dict[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    path = make("ZEROS_LIKE")
    refused = _ferry(lavapipe, "run", path, "--input", tmp_path / "x.npy", "--delegate", "gpu")
    assert refused.code == 1
    assert "takes 1 of 3 nodes, and all are needed; ZEROS_LIKE: Operation is not supported" in refused.err
    required = ("--delegate", "gpu", "--require-full-delegation")
    assert _ferry(lavapipe, "run", path, "--input", tmp_path / "x.npy", *required).code == 3
    fallen = _ferry(lavapipe, "run", path, "--input", tmp_path / "x.npy", "--delegate", "gpu,cpu")
    assert fallen.code == 0
    assert fallen.json["execution"]["delegate"] == "cpu"
    assert "ZEROS_LIKE" in fallen.json["execution"]["fallbacks"][0]
    assert "fell back from gpu: llvmpipe" in fallen.err


def test_a_benchmark_on_the_gpu_names_it(make, lavapipe: dict[str, str]) -> None:
    path = make("LOGISTIC")
    done = _ferry(lavapipe, "bench", path, "--delegate", "gpu", "--num-runs", "2", "--min-secs", "0")
    assert done.code == 0, done.err
    assert "llvmpipe" in done.json["execution"]["processor"]
    assert done.json["engine"]["delegate"] == "gpu"


@pytest.mark.slow
def test_without_a_driver_there_is_no_gpu(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert.compiled_model")
    monkeypatch.setenv("VK_DRIVER_FILES", "/nowhere.json")
    with pytest.raises(EngineError, match="LiteRT finds no GPU") as error:
        load(artifacts["double.tflite"], delegate="gpu")
    assert error.value.fix == "use another delegate, or name a fallback: --delegate gpu,cpu"


@pytest.mark.slow
def test_no_fallback_without_being_asked_for(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/nowhere.json")
    with load(artifacts["double.tflite"], delegate="gpu,npu,cpu") as model:
        told = model.execution
    assert (told.delegate, told.full) == ("cpu", False)
    assert [reason.partition(":")[0] for reason in told.fallbacks] == ["gpu", "npu"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delegate", "said"),
    [("gpu:cuda", "is not available for TFLite artifacts; write gpu"), ("npu:openvino", "write npu")],
)
def test_backends_of_the_other_engine(artifacts, delegate: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        load(artifacts["double.tflite"], delegate=delegate)


def test_dtypes_that_no_accelerator_takes() -> None:
    wide = TensorSpec("ids", (1, 4), "int64")
    with pytest.raises(EngineError, match="ids is int64, which LiteRT's accelerators do not take"):
        open_compiled(Artifact(Path("model.tflite"), ((wide,), ()), None, (), ("ADD",)), Delegate("gpu"), "2")


@pytest.mark.parametrize(
    ("cpuinfo", "missing"), [(PI_4, ("atomics", "asimddp", "fphp")), (PI_5, ()), (X86, ()), ("", ())]
)
def test_the_instructions_that_a_core_lacks(cpuinfo: str, missing: tuple[str, ...]) -> None:
    assert missing_instructions(cpuinfo) == missing


def test_a_core_without_the_instructions_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(PI_4)
    monkeypatch.setattr("edgeferry_runtime.engines.litert_compiled.CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(EngineError, match=r"this CPU lacks instructions .* \(atomics, asimddp, fphp\)"):
        open_compiled(Artifact(Path("model.tflite"), ((), ()), None, (), ()), Delegate("gpu"), "2")
