"""One run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime import confined
from edgeferry_runtime.confined import Run, run_confined
from edgeferry_runtime.errors import DataError, EngineCrashError, EngineError, MissingFileError, UsageError


@pytest.fixture
def x(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", np.float32([[1, 2, 3, 4]]))
    return str(tmp_path / "x.npy")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["double.tflite", "double.onnx"])
def test_outputs_and_what_executed_come_back(artifacts, x: str, kind: str) -> None:
    answer = run_confined(Run(str(artifacts[kind]), (x,), delegate="cpu:1"))
    assert answer.outputs["y"].tolist() == [[2, 4, 6, 8]]
    assert answer.execution.delegate == "cpu:1"
    assert answer.said == ""


@pytest.mark.slow
def test_a_bundle_is_run_on_its_probe(make_bundle) -> None:
    answer = run_confined(Run(str(make_bundle("int8.onnx").path), (), raw=True))
    assert answer.outputs["y"].dtype == np.int8


def test_texts_come_back_as_objects(tmp_path: Path) -> None:
    given = {"s": np.array([["ab", ""]], object), "b": np.array([b"\xff"], object), "odd/name": np.zeros(2)}
    confined._write(tmp_path / "o.npz", given)
    found = confined._read(tmp_path / "o.npz")
    assert {name: values.tolist() for name, values in found.items()} == {n: v.tolist() for n, v in given.items()}
    assert found["s"].dtype == found["b"].dtype == object


@pytest.mark.slow
def test_errors_come_back_as_what_they_were(artifacts, tmp_path: Path, x: str) -> None:
    artifact = str(artifacts["double.onnx"])
    with pytest.raises(UsageError, match="no probe"):
        run_confined(Run(artifact, ()))
    with pytest.raises(MissingFileError, match="no such input file"):
        run_confined(Run(artifact, (f"x={tmp_path}/none.npy",)))
    with pytest.raises(DataError, match="takes float32"):
        run_confined(Run(str(artifacts["dense.onnx"]), (x,)))
    with pytest.raises(EngineError, match=r"within 0\.01 s"):
        run_confined(Run(artifact, (x,)), timeout_s=0.01)


def test_its_death_is_an_error(artifacts, x: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(confined, "child_command", lambda *_: [sys.executable, "-c", dies])
    with pytest.raises(EngineCrashError, match="SIGSEGV"):
        run_confined(Run(str(artifacts["double.tflite"]), (x,)))


def test_memory_is_limited_by_the_size_of_the_files(artifacts, tiny, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    (tmp_path / "model.onnx").write_bytes(tiny.onnx_external("weights.bin"))
    program = """
import resource, sys
from edgeferry_runtime.guard import limit_memory
limit_memory(sys.argv[1])
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
print(resource.getrlimit(resource.RLIMIT_DATA)[0])
try:
    bytes(2 << 30)
except MemoryError:
    print("refused")
"""
    limits = []
    for path in (artifacts["double.onnx"], tmp_path / "model.onnx", tmp_path):
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True)
        limit, refused = done.stdout.split()
        limits.append(int(limit) - 8 * path.stat().st_size if path.is_file() else int(limit))
        assert refused == "refused"
    assert limits[1] == limits[0] + 8 * 16
    assert limits[2] == limits[1] + 8 * (tmp_path / "model.onnx").stat().st_size
