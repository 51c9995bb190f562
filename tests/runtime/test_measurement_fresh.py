"""Measuring in a fresh process: same answers, same errors, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeferry_runtime.benchmark import BenchOptions, bench_fresh
from edgeferry_runtime.errors import CorruptFileError, EngineCrashError, MissingFileError, UsageError
from edgeferry_runtime.measurement import fresh

QUICK = BenchOptions(num_runs=5, warmup_runs=2, min_secs=0, max_warmup_secs=0)
LONG = ["--num-runs", "1000000000", "--max-secs", "60"]


def descendants(pid: int) -> list[int]:
    """Processes whose parent is `pid`, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == pid and after_name[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_memory_is_that_of_the_model_alone(artifacts) -> None:
    ballast = bytearray(300 << 20)
    profile = bench_fresh(artifacts["dense.tflite"], QUICK, device="shelf")
    assert profile.device == "shelf"
    assert profile.num_runs == len(profile.samples_ms) == 5
    assert profile.baseline_rss_bytes < profile.rss_bytes <= profile.peak_rss_bytes < len(ballast)


@pytest.mark.slow
def test_a_bundle_is_measured_and_progress_arrives(make_bundle) -> None:
    said: list[str] = []
    options = BenchOptions(warmup_runs=1, max_warmup_secs=0, sustained_secs=0.5)
    bundle = make_bundle("pair.onnx")
    profile = bench_fresh(bundle.path, options, say=said.append)
    assert profile.artifact["bundle"] == bundle.id
    assert 1 <= len(profile.windows) <= 60
    assert {line.partition(" of ")[2][:4] for line in said} <= {"0.5s"}


@pytest.mark.slow
def test_errors_arrive_as_what_they_were(tmp_path: Path, artifacts) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        bench_fresh(tmp_path / "none.onnx", QUICK)
    (tmp_path / "cut.tflite").write_bytes(artifacts["pair.tflite"].read_bytes()[:100])
    with pytest.raises(CorruptFileError):
        bench_fresh(tmp_path / "cut.tflite", QUICK)


@pytest.mark.slow
def test_a_path_is_relative_to_the_caller(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(artifacts["pair.onnx"].parent)
    assert bench_fresh("pair.onnx", QUICK).artifact["name"] == "pair"


@pytest.mark.slow
def test_nothing_is_imported_from_the_working_folder(
    tmp_path: Path, artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert bench_fresh(artifacts["pair.onnx"], QUICK).num_runs == 5


def test_a_process_that_dies_is_an_error(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    died = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(fresh, "command", lambda: died)
    with pytest.raises(EngineCrashError, match="SIGABRT"):
        bench_fresh(artifacts["pair.onnx"], QUICK)


def wait_for_child(process: subprocess.Popen[bytes]) -> list[int]:
    end = time.monotonic() + 30
    while not (found := descendants(process.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(make_bundle, tmp_path: Path, how: signal.Signals) -> None:
    target = str(make_bundle("pair.onnx").path)
    command = [sys.executable, "-m", "edgeferry_runtime", "bench", target, *LONG]
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        children = wait_for_child(process)
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert len(children) == 1
    assert out == b""
    if how == signal.SIGINT:
        assert (process.returncode, err.strip()) == (130, b"ferry: interrupted")
    end = time.monotonic() + 10
    while running(children[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(children[0])
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_cooling_without_a_sensor_is_refused(artifacts) -> None:
    from edgeferry_runtime import machine

    if "temperature_c" in machine.state():
        pytest.skip("this machine has a temperature sensor")
    with pytest.raises(UsageError, match="--cool-to: needs a temperature sensor"):
        bench_fresh(artifacts["pair.onnx"], BenchOptions(cool_to=50))


GRANDPARENT = """
import subprocess, sys, time
from edgeferry_runtime.worker import _end_with_stdin
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
_end_with_stdin()
"""


def test_what_the_child_began_ends_with_it() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", GRANDPARENT], start_new_session=True, **pipes) as process:
        assert process.stdout and process.stdin
        grandchild = int(process.stdout.readline())
        process.stdin.close()
        process.wait(10)
    end = time.monotonic() + 10
    while running(grandchild) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(grandchild)


def running(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
