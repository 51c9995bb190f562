"""``ferry compare``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.profile import Profile

QUICK = ("--num-runs", 5, "--warmup-runs", 2, "--min-secs", 0, "--max-warmup-secs", 0, "--blocks", 1)


@pytest.fixture
def profiles(artifacts, tmp_path: Path) -> dict[str, Path]:
    """Profiles of known medians, by milliseconds."""
    profile = bench(artifacts["pair.onnx"], BenchOptions(num_runs=2, warmup_runs=1, min_secs=0, max_warmup_secs=0))
    files = {}
    for median in ("1.0", "1.2"):
        samples = float(median) * np.random.default_rng(0).lognormal(0, 0.01, 201)
        files[median] = tmp_path / f"{median}.json"
        shown = replace(profile, warnings=(), samples_ms=tuple(samples.tolist()))
        files[median].write_text(json.dumps(shown.to_dict()))
    return files


@pytest.mark.slow
def test_artifacts_are_compared(ferry, artifacts) -> None:
    code, out, err = ferry("compare", artifacts["pair.onnx"], artifacts["dense.onnx"], *QUICK)
    assert code == 0
    assert "block 1 of 1: B" in err
    assert "B takes" in out.splitlines()[-1]
    assert "95 % sure between" in out


def test_profiles_are_compared(ferry, profiles) -> None:
    code, out, err = ferry("compare", profiles["1.0"], profiles["1.2"])
    assert code == 0
    assert out.splitlines()[-1].startswith("B is slower: B takes 1.200 times as long as A (95 % sure between 1.19")
    assert "warning: each side is one process" in err


def test_programs_get_json(ferry, profiles) -> None:
    code, out, _ = ferry("compare", profiles["1.2"], profiles["1.0"], "--json")
    data = json.loads(out)
    assert (code, data["schema"], data["verdict"]) == (0, 1, "faster")
    assert data["ratio_ci95"][0] < data["ratio"] < data["ratio_ci95"][1]


def test_the_gate(ferry, profiles) -> None:
    slower = ("compare", profiles["1.0"], profiles["1.2"], "--max-slowdown")
    code, out, err = ferry(*slower, "5%")
    assert code == 3
    assert "B is slower" in out
    assert "times as long as pair, and 1.05 is the limit; make it faster, or raise --max-slowdown" in err
    assert ferry(*slower, "50")[0] == 0
    code, _, err = ferry(*slower, "20%")
    assert "cannot be ruled out" in err or code == 3
    assert ferry("compare", profiles["1.2"], profiles["1.0"], "--max-slowdown", "0%")[0] == 0


@pytest.mark.parametrize("text", ["x", "-5%", "nan", "inf%", ""])
def test_a_limit_that_is_none(ferry, profiles, text: str) -> None:
    code, out, err = ferry("compare", profiles["1.0"], profiles["1.2"], "--max-slowdown", text)
    assert (code, out) == (2, "")
    assert "--max-slowdown: " in err
    assert "is no percentage; give one such as 5%" in err


def test_one_of_each_kind_is_refused(ferry, profiles, artifacts) -> None:
    code, _, err = ferry("compare", profiles["1.0"], artifacts["pair.onnx"])
    assert code == 2
    assert "was given a profile and an artifact; give two of one kind" in err


def test_what_ferry_profile_printed_is_read(ferry, profiles, tmp_path: Path) -> None:
    profile = json.loads(profiles["1.0"].read_text())
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"schema": 1, "profiles": [{"device": "pi", "profile": profile, "error": None}]}))
    assert ferry("compare", one, profiles["1.2"])[0] == 0
    one.write_text(json.dumps({"schema": 1, "profiles": [{"device": "pi", "profile": profile}] * 2}))
    assert "holds 2 profiles; give one of a bundle, a device and a round" in ferry("compare", one, profiles["1.2"])[2]


@pytest.mark.parametrize(
    ("text", "said"), [('{"a": ', "is no JSON"), ('{"schema": 9}', "has schema 9"), ('{"schema": 1}', "is incomplete")]
)
def test_what_is_no_profile(ferry, profiles, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    code, out, err = ferry("compare", profiles["1.0"], tmp_path / "bad.json")
    assert (code, out) == (1, "")
    assert said in err


def test_what_is_missing(ferry, tmp_path: Path) -> None:
    code, _, err = ferry("compare", tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert code == 1
    assert "no such file" in err


def test_a_printed_profile_is_read_whole(profiles) -> None:
    from edgeferry_runtime.profile import read_profile

    assert isinstance(read_profile(profiles["1.0"]), Profile)
