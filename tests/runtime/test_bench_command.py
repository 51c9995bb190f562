"""``ferry bench``, and how a profile is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.commands.profile_text import duration, profile_text, size
from edgeferry_runtime.profile import Profile

QUICK = ("--num-runs", 5, "--warmup-runs", 2, "--min-secs", 0, "--max-warmup-secs", 0)


def test_people_get_a_page(ferry, artifacts) -> None:
    code, out, err = ferry("bench", artifacts["pair.onnx"], *QUICK)
    assert code == 0
    assert err == "a bare artifact has no probe: measuring on seeded random inputs\n"
    for word in ("artifact", "engine", "onnxruntime", "median", "95 % sure", "5 after 2 to warm up", "memory"):
        assert word in out


def test_programs_get_a_profile(ferry, make_bundle) -> None:
    bundle = make_bundle("pair.tflite")
    code, out, err = ferry("bench", bundle.path, *QUICK, "--delegate", "cpu:2", "--json")
    assert (code, err) == (0, "")
    profile = Profile.from_dict(json.loads(out))
    assert profile.artifact["bundle"] == bundle.id
    assert profile.engine["delegate"] == "cpu:2"
    assert profile.num_runs == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--num-runs", "0"], 2, "--num-runs: is 0; give 1 or more"),
        (["--num-runs", "x"], 2, "--num-runs"),
        (["--min-secs", "5", "--max-secs", "1"], 2, "above --max-secs"),
        (["--sustained", "5x"], 2, "--sustained: '5x' is no length of time; give one such as 30s, 5m"),
        (["--cool-to", "-1"], 2, "--cool-to: is -1.0; give 0 or more"),
        (["--delegate", "cpu:0"], 2, "is no thread count"),
    ],
)
def test_wrong_options(ferry, artifacts, arguments: list[str], code: int, said: str) -> None:
    found, out, err = ferry("bench", artifacts["pair.onnx"], *arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_a_sustained_run_is_drawn_and_told(ferry, make_bundle) -> None:
    bundle = make_bundle("pair.onnx")
    code, out, err = ferry("bench", bundle.path, *QUICK, "--sustained", "0.5s")
    assert code == 0
    assert "of 0.5s: median" in err
    assert sum("|" in line for line in out.splitlines()) >= 7
    assert "over 0.5s the median" in out.splitlines()[-1]


def test_a_file_that_is_no_model(ferry, tmp_path) -> None:
    (tmp_path / "model.tflite").write_text("hello")
    code, out, err = ferry("bench", tmp_path / "model.tflite")
    assert (code, out) == (1, "")
    assert "is neither TFLite nor ONNX" in err


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0153, "15.3 us"),
        (0.9999, "1 ms"),
        (1.0, "1 ms"),
        (12.345, "12.3 ms"),
        (999.9, "0.9999 s"),
        (2500.0, "2.5 s"),
        (0.0, "0 us"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "unknown"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3 GiB")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


def test_state_and_warnings_are_shown(artifacts) -> None:
    profile = bench(artifacts["double.onnx"], BenchOptions(num_runs=2, warmup_runs=1, min_secs=0))
    shown = replace(
        profile,
        device="shelf",
        state_before={"temperature_c": 45.0, "governor": "ondemand"},
        state_after={"temperature_c": 81.25, "governor": "ondemand", "throttled": ["throttled"]},
        warnings=("throttled: throttled",),
    )
    text = profile_text(shown)
    assert "45 -> 81.25 °C, ondemand, throttled" in text
    assert text.splitlines()[-1].split(maxsplit=1) == ["warning", "throttled: throttled"]
    assert "shelf: " in text
    assert "no sensors" in profile_text(replace(profile, state_before={}, state_after={}))
