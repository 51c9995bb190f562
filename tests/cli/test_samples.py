"""Every sample runs as its first lines say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
pytestmark = pytest.mark.slow


def run(script: str, *args: object, home: Path) -> str:
    folders = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "XDG_CONFIG_HOME": str(home / "config")}
    env = {**os.environ, **folders}
    command = [sys.executable, str(SAMPLES / script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=home, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the printed table of the whole demo."""
    home = tmp_path_factory.mktemp("demo")
    return home, run("demo.py", "--out", home / "out", home=home)


def test_the_demo_prints_a_row_for_each_of_the_eight_bundles(demo: tuple[Path, str]) -> None:
    home, printed = demo
    rows = [line for line in printed.splitlines() if line.startswith(("keras", "torch"))]
    assert len(rows) == 8
    assert "The bundles lie in" in printed
    assert len([p for p in (home / "out").iterdir() if (p / "manifest.json").is_file()]) == 8


def test_the_demos_int8_artifacts_lose_at_most_two_points(demo: tuple[Path, str]) -> None:
    for line in demo[1].splitlines():
        if " int8 " in line:
            drop = float(line.split()[5])
            assert drop <= 2.0, line


def test_one_recipe_makes_networks_of_both_frameworks_smaller_within_its_gates(tmp_path: Path) -> None:
    printed = run("compress_digits.py", tmp_path / "out", home=tmp_path)
    assert [printed.count(name) for name in ("source", "1-prune-channels", "2-distill", "3-quantize")] == [2] * 4
    for framework in ("keras", "torch"):
        history = json.loads((tmp_path / "out" / framework / "history.json").read_text())
        assert all(step["passed"] and step["drop"] <= 1.0 for step in history["steps"])
        last = history["steps"][-1]["standing"]
        assert last["macs"] <= history["start"]["macs"] / 2
        assert last["artifact_bytes"] < history["start"]["artifact_bytes"] / 4
        assert last["median_ms"] > 0
        bundle = json.loads((tmp_path / "out" / framework / "bundle/manifest.json").read_text())
        assert bundle["artifact"]["precision"] == "int8"


def test_run_bundle_names_classes(demo: tuple[Path, str]) -> None:
    home, _ = demo
    printed = run("run_bundle.py", home / "out/digits-keras-tflite-int8", home / "out/calibration_nhwc.npy", home=home)
    assert printed.count("class ") == 5


def test_push_and_profile_says_that_nothing_needs_to_travel_again(demo: tuple[Path, str]) -> None:
    home, _ = demo
    printed = run("push_and_profile.py", home / "out/digits-torch-onnx-int8", home=home)
    assert "local: up to date" in printed
    assert "local: median " in printed


def test_report_makes_a_page_of_what_was_profiled(demo: tuple[Path, str], tmp_path: Path) -> None:
    home, _ = demo
    run("push_and_profile.py", home / "out/digits-torch-onnx-int8", home=home)
    printed = run("report.py", tmp_path / "report.html", "local", home=home)
    assert re.search(r"report\.html: \d+ measurements", printed)
    assert "digits-torch-onnx-int8" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.zoo
def test_call_a_server_says_what_the_model_says(demo: tuple[Path, str]) -> None:
    home, _ = demo
    bundle, pictures = home / "out/digits-keras-tflite-int8", home / "out/calibration_nhwc.npy"
    ports = ["--port", "0", "--no-grpc", "--no-management"]
    command = [sys.executable, "-m", "edgeferry_runtime", "serve", f"digits={bundle}", *ports, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=home) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            printed = run("call_a_server.py", f"http://127.0.0.1:{port}", "digits", pictures, home=home)
        finally:
            server.terminate()
    assert printed == run("run_bundle.py", bundle, pictures, home=home).partition("\n")[2]
    assert server.returncode == 0


def test_camera_names_what_every_frame_shows(zoo: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(5):
        (frames / f"{i}.bmp").symlink_to(zoo / "coral" / "cat.bmp")
    printed = run("camera.py", zoo / "coral" / "mobilenet_v2_1.0_224_quant.tflite", frames, home=tmp_path)
    *named, rate = printed.splitlines()
    assert [line.split(" 0.")[0] for line in named] == [f"{i}.bmp: Egyptian cat" for i in range(5)]
    assert re.fullmatch(r"\d+ frames/s: [\d.]+ ms a frame; the engine alone takes [\d.]+ ms", rate)


def test_no_sample_is_left_out_of_these_tests() -> None:
    trained = {"digits.py", "digits_keras.py", "digits_torch.py", "resnet_cifar.py"}
    covered = {"demo.py", "camera.py", "call_a_server.py", "run_bundle.py", "push_and_profile.py", "report.py"}
    covered |= {"compress_digits.py"}
    assert {p.name for p in SAMPLES.glob("*.py")} <= covered | trained
