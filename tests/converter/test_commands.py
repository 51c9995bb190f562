"""``ferry convert`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.bundle import Bundle

pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
DATA = str(MODELS / "digits.npz")


def ferry(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeferry_runtime", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_result_is_on_stdout_and_the_progress_on_stderr(tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.tflite", "-o", tmp_path / "b", "--quantize", "int8", "--calibrate", DATA)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["output", "max", "abs", "mean", "abs", "cosine", "SNR", "dB", "top-1"]
    assert [line.split()[0] for line in lines[1:3]] == ["digit", "features"]
    assert "% of the float artifact's 18,780 B" in done.stdout
    assert f"lies in {tmp_path / 'b'}" in done.stdout
    steps = done.stderr.splitlines()
    assert [s.split()[0] for s in steps] == ["open", "run", "lower", "quantize", "verify"]
    assert all(s.endswith(" s") for s in steps), "and no framework says a word"


def test_json_has_a_schema_and_the_whole_manifest(tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.onnx", "-o", tmp_path / "b", "--to", "onnx", "--json", "--samples", 4)
    data = json.loads(done.stdout)
    assert data["schema"] == 1
    assert data["id"] == Bundle.open(tmp_path / "b").id
    assert data["verification"]["samples"] == 4
    assert data["verification"]["outputs"][0]["name"] == "digit"


def test_random_inputs_are_said(tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.onnx", "-o", tmp_path / "b", "--to", "onnx", "--seed", 7)
    assert "verified with random inputs of seed 7" in done.stdout


def test_flags_replace_what_the_recipe_says(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(DATA)["image"])
    (tmp_path / "r.toml").write_text('quantize = "int8"\ncalibrate = "x.npy"\n[tolerance]\nmin_top1 = 0.5\n')
    done = ferry(
        MODELS / "digits.tflite", "-o", tmp_path / "b", "--recipe", tmp_path / "r.toml", "--io-dtype", "int8",
        "--max-abs", 0.5, "--name", "mine", "--samples", 9,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert (manifest.name, manifest.precision, manifest.inputs[0].dtype) == ("mine", "int8", "int8")
    assert (manifest.tolerance.min_top1, manifest.tolerance.max_abs) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--to", "tflit"], 2, "--to: unknown name 'tflit'; did you mean 'tflite'? valid are tflite, onnx"),
        (["--quantize", "int4"], 2, "valid are none, fp16, int16x8, weight-only, dynamic, int8"),
        (["--io-dtype", "int16"], 2, "valid are float32, int8, uint8"),
        (["--override", "dense"], 2, "write it as --override "),
        (["--override", "*dense*=int8"], 2, "give --calibrate DATA"),
        (["--block-size", "32"], 2, "is for int4 weights, and --quantize is none"),
        (["--io-dtype", "int8"], 2, "add --quantize int8"),
        (["--quantize", "int8"], 2, "give --calibrate DATA with typical samples, or use --quantize dynamic"),
        (["--samples", "0"], 2, "whole number from 1"),
        (["--shape", "image"], 2, "write it as --shape image=1,3,32,32"),
        (["--shape", "image=1,a"], 2, "write it as --shape image=1,3,32,32"),
        (["--shape", "image=1,0"], 2, "give positive sizes"),
        (["--name", "a/b"], 2, "no plain name"),
        (["--recipe", "nowhere.toml"], 1, "no such recipe"),
        (["--calibrate", "nowhere.npy"], 1, "no such data"),
        (["--max-abs", "0", "--quantize", "fp16"], 3, "digit: max abs error"),
        (["--colour", "red"], 2, "unknown name '--colour'"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.tflite", "-o", tmp_path / "b", *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "b").exists()


def test_verbose_lets_the_frameworks_speak(tmp_path: Path) -> None:
    tokens = MODELS / "digits.onnx"
    quiet, loud = (
        ferry(tokens, "-o", tmp_path / "b", "--to", "onnx", "--quantize", "int8", "--calibrate", DATA, *more)
        for more in ((), ("-v",))
    )
    assert quiet.returncode == loud.returncode == 0
    assert len(quiet.stderr.splitlines()) == 5
    assert len(loud.stderr.splitlines()) > 5
    assert loud.stdout.splitlines()[:3] == quiet.stdout.splitlines()[:3]


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path: Path) -> None:
    what = ["--quantize", "int8", "--calibrate", DATA, "--override", "*dense*=none", "--dry-run"]
    done = ferry(MODELS / "digits.tflite", "-o", tmp_path / "b", *what)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"1. open {MODELS / 'digits.tflite'} (tflite)"
    assert f"calibrated by min-max on {DATA}, *dense* as none" in lines[3]
    assert lines[6] == "limits: min_cosine 0.95, min_snr_db 8, min_top1 0.8"
    assert 'precision = "int8"' in lines
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_conversion_would(tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.tflite", "-o", tmp_path / "b", "--quantize", "int8", "--dry-run", "--json")
    assert done.returncode == 2
    assert "give --calibrate DATA" in done.stderr
    assert not done.stdout


def test_a_dry_run_has_a_json_form(tmp_path: Path) -> None:
    told = json.loads(ferry(MODELS / "digits.onnx", "-o", tmp_path / "b", "--to", "onnx", "--dry-run", "--json").stdout)
    assert told["schema"] == 1
    assert (told["format"], told["name"], told["recipe"]) == ("onnx", "b", 'to = "onnx"\n')
    assert told["steps"][2] == "lower it to onnx"
