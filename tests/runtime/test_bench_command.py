"""``ferry bench``, and how a profile is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.commands.profile_text import profile_text
from edgeferry_runtime.profile import Profile

QUICK = ("--num-runs", 5, "--warmup-runs", 2, "--min-secs", 0, "--max-warmup-secs", 0)


@pytest.mark.slow
def test_people_get_a_page(ferry, artifacts) -> None:
    code, out, err = ferry("bench", artifacts["pair.onnx"], *QUICK)
    assert code == 0
    assert err == "a bare artifact has no probe: measuring on seeded random inputs\n"
    for word in ("artifact", "engine", "onnxruntime", "median", "95 % sure", "5 after 2 to warm up", "memory"):
        assert word in out


@pytest.mark.slow
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
        (["--max-load", "-1"], 2, "--max-load: is -1.0; give 0 or more"),
        (["--delegate", "cpu:0"], 2, "is no thread count"),
    ],
)
def test_wrong_options(ferry, artifacts, arguments: list[str], code: int, said: str) -> None:
    found, out, err = ferry("bench", artifacts["pair.onnx"], *arguments)
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.slow
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


@pytest.mark.slow
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
    alone = profile_text(replace(profile, samples_ms=(), median_ms_ci95=None, p90_ms=None, p99_ms=None))
    assert "95 % sure" not in alone
    assert "unknown, unknown" in alone
    assert "no sensors" in profile_text(replace(profile, state_before={}, state_after={}))


@pytest.mark.slow
def test_a_budget_has_a_line_for_each_limit_and_fails_with_3(ferry, make_bundle, tmp_path) -> None:
    bundle, report = make_bundle("pair.onnx"), tmp_path / "report.xml"
    code, out, err = ferry("bench", bundle.path, *QUICK, "--budget", "p50=1s,size=1B,drop=0.5", "--junit", report)
    assert code == 3
    lines = out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["passed", "FAILED", "FAILED"]
    assert "drop is unknown, at most 0.5 points (the bundle tells no accuracy; make it with: ferry convert" in lines[2]
    assert err.count("\n") == 1 and err.startswith("ferry: error: --budget: 2 of 3 limits failed: local: ")
    assert 'tests="3" failures="2" errors="0"' in report.read_text()
    code, out, _ = ferry("bench", bundle.path, *QUICK, "--budget", "p50=1s", "--json")
    data = json.loads(out)
    assert (code, data["schema"], data["budget"][0]["passed"]) == (0, 1, True)
    assert Profile.from_dict(data).num_runs == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--budget", "p50=15"], 2, "--budget p50: '15' has no unit"),
        (["--budget", "p50=15ms", "--sweep"], 2, "--sweep: does not go together with --budget"),
        (["--junit", "r.xml"], 2, "--junit: reports what became of a budget"),
        (["--budget", "p50=1s", "--junit", "."], 1, "--junit .: is a folder; give a file"),
        (["--budget", "p50=1s", "--junit", "absent/r.xml"], 1, "absent: no such folder"),
    ],
)
def test_budgets_that_cannot_be(ferry, artifacts, arguments: list[str], code: int, said: str) -> None:
    found, out, err = ferry("bench", artifacts["pair.onnx"], *arguments)
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.slow
def test_what_cannot_be_measured_is_an_error_in_the_report(ferry, make_bundle, tmp_path) -> None:
    bundle, report = make_bundle("pair.onnx"), tmp_path / "report.xml"
    wrong = ("--signature", "nope", "--budget", "p50=1s", "--junit", report)
    assert ferry("bench", bundle.path, *QUICK, *wrong)[0] == 2
    assert '<error message="--signature' in report.read_text()
