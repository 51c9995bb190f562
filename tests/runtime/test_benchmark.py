"""Measuring on real engines: a profile that is whole, and honest about what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeferry_runtime import bench
from edgeferry_runtime.benchmark import BenchOptions
from edgeferry_runtime.errors import MissingFileError
from edgeferry_runtime.profile import Profile

QUICK = BenchOptions(num_runs=5, warmup_runs=2, min_secs=0, max_warmup_secs=0)


@pytest.mark.parametrize("kind", ["pair.tflite", "batch.onnx", "int8.tflite"])
def test_an_artifact_is_measured(artifacts, kind: str) -> None:
    profile = bench(artifacts[kind], QUICK)
    assert profile.num_runs == len(profile.samples_ms) == 5
    assert profile.warmup_runs == 2
    assert profile.init_ms > 0
    assert profile.first_inference_ms > 0
    assert profile.artifact["format"] == kind.split(".")[1]
    assert profile.artifact["size_bytes"] == artifacts[kind].stat().st_size
    assert profile.engine["delegate"] == "cpu"
    assert profile.rss_bytes
    assert profile.scheduling["involuntary_switches"] is None or profile.scheduling["involuntary_switches"] >= 0
    assert [str(f"{mark['kind']}: {mark['reason']}") for mark in profile.marks] == list(profile.warnings)
    assert profile.verdict
    assert profile.timestamp.endswith("+00:00")
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))).median_ms == profile.median_ms


def test_a_bundle_is_measured_under_its_name(make_bundle) -> None:
    bundle = make_bundle("pair.onnx")
    profile = bench(bundle.path, QUICK, device="shelf")
    assert profile.artifact["bundle"] == bundle.id
    assert profile.artifact["precision"] == "none"
    assert profile.device == "shelf"


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(MissingFileError):
        bench(tmp_path / "none.onnx", QUICK)


def board(root: Path, celsius: int, throttled: str) -> Path:
    """Write the sensors of a Raspberry Pi."""
    files = {
        "sys/class/thermal/thermal_zone0/temp": f"{celsius * 1000}\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": f"{throttled}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_board_that_is_short_of_power_is_marked(artifacts, tmp_path: Path) -> None:
    profile = bench(artifacts["pair.onnx"], QUICK, sensors=board(tmp_path, 61, "50005"))
    assert profile.state_before["temperature_c"] == 61
    assert profile.state_before["governor"] == "ondemand"
    assert "under-voltage: under-voltage; check the power supply and its cable" in profile.warnings
    assert "under-voltage" in profile.verdict
    assert "throttled" in profile.verdict


@pytest.mark.slow
def test_the_board_is_watched_while_it_runs(artifacts, tmp_path: Path) -> None:
    options = BenchOptions(num_runs=1, min_secs=1.2, max_warmup_secs=0)
    profile = bench(artifacts["pair.onnx"], options, sensors=board(tmp_path, 50, "0"))
    assert {state["temperature_c"] for state in profile.states_during} == {50}
    assert profile.states_during[0]["at_s"] >= 1
    assert not any(word in profile.verdict for word in ("throttled", "under-voltage", "slowed"))


@pytest.mark.slow
def test_a_sustained_run_has_windows_with_temperatures(artifacts, tmp_path: Path) -> None:
    options = BenchOptions(warmup_runs=1, max_warmup_secs=0, sustained_secs=0.3)
    said: list[str] = []
    profile = bench(artifacts["pair.onnx"], options, sensors=board(tmp_path, 50, "0"), say=said.append)
    assert 1 <= len(profile.windows) <= 60
    assert profile.num_runs == sum(window["runs"] for window in profile.windows) >= len(profile.samples_ms)
    assert profile.windows[0]["state"]["temperature_c"] == 50
    assert all(line.endswith("50.0 °C") for line in said)
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again.windows == profile.windows


def test_a_cool_board_begins_at_once_and_a_warm_one_is_marked(artifacts, tmp_path: Path) -> None:
    options = BenchOptions(num_runs=1, warmup_runs=1, min_secs=0, max_warmup_secs=0, cool_to=55, max_wait_secs=0.1)
    cool = bench(artifacts["pair.onnx"], options, sensors=board(tmp_path, 50, "0"))
    assert cool.cooling["end_c"] == 50
    assert cool.calming == {}
    assert "warm" not in cool.verdict
    warm = bench(artifacts["pair.onnx"], options, sensors=board(tmp_path, 70, "0"))
    assert "warm: still 70 °C" in warm.warnings[0]


def test_a_board_that_stays_busy_is_marked(artifacts, tmp_path: Path) -> None:
    options = BenchOptions(num_runs=1, warmup_runs=1, min_secs=0, max_warmup_secs=0, max_load=0.5, max_wait_secs=0.1)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("0.75 0.50 0.25 1/100 4711\n")
    said: list[str] = []
    busy = bench(artifacts["pair.onnx"], options, sensors=tmp_path, say=said.append)
    assert said == ["load 0.75, waiting for load 0.5"]
    assert busy.calming["end_load"] == 0.75
    assert busy.calming["waited_s"] >= 0.1
    assert "busy: still load 0.75 after 0.1s of waiting, and not load 0.5" in busy.warnings
    assert "busy" in busy.verdict
