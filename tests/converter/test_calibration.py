"""Calibration as a conversion does it: one core for both formats, a set that is examined, and the best method."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter import Step, convert
from edgeferry_converter.calibration import best
from edgeferry_converter.data import Samples, fit
from edgeferry_converter.quantize import Job, observe, quantize
from edgeferry_converter.quantize.calibration.methods import METHODS, ranges
from edgeferry_runtime.bundle import Bundle, Probe
from edgeferry_runtime.errors import DataError, UnknownNameError, UsageError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import Tolerance, compare_output
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tensors import TensorSpec

pytest.importorskip("ai_edge_quantizer")
pytest.importorskip("onnx")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
DATA = MODELS / "digits.npz"
PICTURES = np.load(DATA)["image"]
FORMATS = ("tflite", "onnx")


def job(to: str, target: Path, method: str = "min-max", pictures: np.ndarray = PICTURES) -> Job:
    source = MODELS / f"digits.{to}"
    samples = Samples(DATA, load(source).inputs, {"image": pictures})
    return Job(source, target, "int8", samples=samples, calibration=method)


def converted(to: str, folder: Path, data: Path, **changes: object) -> tuple[Bundle, list[str]]:
    steps: list[Step] = []
    source = MODELS / f"digits.{to}"
    made = convert(source, folder / "b", to=to, quantize="int8", calibrate=data, progress=steps.append, **changes)
    return made, [warning for step in steps for warning in step.warnings]


@pytest.mark.parametrize("to", FORMATS)
def test_min_max_is_the_true_extremes_of_all_samples(to: str, tmp_path: Path) -> None:
    seen = observe(to, job(to, tmp_path / "o"))
    assert seen.samples == len(PICTURES)
    (entry,) = (name for name in seen.tensors if "image" in name)
    assert ranges(seen, "min-max")[entry] == (PICTURES.min(), PICTURES.max())
    parts = [observe(to, job(to, tmp_path / "o", pictures=PICTURES[i : i + 16])) for i in range(0, 64, 16)]
    for name, found in ranges(seen, "min-max").items():
        assert found[0] == min(ranges(part, "min-max")[name][0] for part in parts)
        assert found[1] == max(ranges(part, "min-max")[name][1] for part in parts)


@pytest.mark.parametrize("to", FORMATS)
def test_a_rare_extreme_is_kept_by_min_max_and_clipped_by_the_moving_average(to: str, tmp_path: Path) -> None:
    pictures = PICTURES.copy()
    pictures[3] *= 50
    seen = observe(to, job(to, tmp_path / "o", pictures=pictures))
    (entry,) = (name for name in seen.tensors if "image" in name)
    assert ranges(seen, "min-max")[entry][1] == pictures[3].max() == 50
    assert ranges(seen, "moving-average")[entry][1] < 5
    assert seen.tensors[entry].dimensions == 4


@pytest.mark.parametrize("to", FORMATS)
def test_no_samples_give_no_ranges(to: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        observe(to, job(to, tmp_path / "o", pictures=PICTURES[:0]))


def test_both_formats_take_the_same_numbers(tmp_path: Path) -> None:
    """The two files were exported from one network; the names of inner tensors differ, their ranges do not."""
    found = [ranges(observe(to, job(to, tmp_path / "o")), "percentile").values() for to in FORMATS]
    flat = [{(round(low, 3), round(high, 3)) for low, high in values} for values in found]
    assert len(flat[0] & flat[1]) >= 4


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("method", METHODS)
def test_a_pass_made_before_gives_the_same_artifact(to: str, method: str, tmp_path: Path) -> None:
    fresh = job(to, tmp_path / "fresh", method)
    quantize(to, fresh)
    reused = replace(fresh, target=tmp_path / "reused", samples=None, statistics=observe(to, fresh))
    quantize(to, reused)
    assert (tmp_path / "fresh").read_bytes() == (tmp_path / "reused").read_bytes()


@pytest.mark.parametrize("to", FORMATS)
def test_outliers_in_one_sample_are_clipped_by_the_methods_that_clip(to: str, tmp_path: Path) -> None:
    """One picture in the set is 40 times too bright: on the others, whoever clips it is nearer to the source."""
    spoiled = np.concatenate([np.tile(PICTURES, (32, 1, 1, 1)), PICTURES[:1] * 40])
    float_model = load(MODELS / f"digits.{to}")
    feeds = [{"image": picture[np.newaxis]} for picture in PICTURES[:16]]
    reference = np.stack([float_model.run(feed)["features"] for feed in feeds])
    seen = observe(to, job(to, tmp_path / "o", pictures=spoiled))
    ratios = {}
    for method in METHODS:
        target = tmp_path / method
        quantize(to, Job(MODELS / f"digits.{to}", target, "int8", calibration=method, statistics=seen))
        model = load(target)
        ratios[method] = compare_output("x", reference, np.stack([model.run(f)["features"] for f in feeds])).snr_db
    assert min(ratios[method] for method in ("percentile", "mse", "entropy")) > ratios["min-max"] + 1, ratios


@pytest.mark.parametrize("to", FORMATS)
def test_auto_keeps_the_best_and_says_what_it_tried(to: str, tmp_path: Path) -> None:
    made, warnings = converted(to, tmp_path, DATA, calibration="auto")
    calibration = made.manifest.verification["calibration"]
    assert set(calibration["tried"]) == set(METHODS)
    best = max(figures["snr_db"] for figures in calibration["tried"].values())
    assert calibration["tried"][calibration["method"]]["snr_db"] == best
    assert min(o["snr_db"] for o in made.manifest.verification["outputs"]) == pytest.approx(best)
    content = made.artifact.read_bytes()
    again, _ = converted(to, tmp_path, DATA, calibration=calibration["method"])
    assert again.artifact.read_bytes() == content
    assert warnings == []
    assert "warnings" not in made.manifest.verification


@pytest.mark.parametrize("to", FORMATS)
def test_auto_goes_through_the_samples_once(to: str, tmp_path: Path) -> None:
    passes: list[int] = []

    class Counted(Samples):
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            passes.append(len(self))
            return super().__iter__()

    float_model = load(MODELS / f"digits.{to}")
    fed = [{"image": picture[np.newaxis]} for picture in PICTURES[:4]]
    answers = [float_model.run(feed) for feed in fed]
    probe = Probe(
        {"image": np.stack([feed["image"] for feed in fed])},
        {name: np.stack([answer[name] for answer in answers]) for name in ("digit", "features")},
    )
    samples = Counted(DATA, float_model.inputs, {"image": PICTURES})
    _, found = best(to, replace(job(to, tmp_path / f"o.{to}"), samples=samples), {"": probe})
    assert passes == [64]
    assert (tmp_path / f"o.{to}").is_file()
    assert found["method"] in METHODS


def test_the_manifest_names_the_set_by_its_hash(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(12) if name == "one" else reversed(range(12)):
            np.save(tmp_path / name / f"{i}.npy", PICTURES[i])
    first, second = (converted("onnx", tmp_path, tmp_path / name)[0] for name in ("one", "two"))
    told = first.manifest.verification["calibration"]
    assert (told["method"], told["samples"], len(told["sha256"])) == ("min-max", 12, 64)
    assert told == second.manifest.verification["calibration"]
    np.save(tmp_path / "two" / "3.npy", PICTURES[20])
    other, _ = converted("onnx", tmp_path, tmp_path / "two")
    assert other.manifest.verification["calibration"]["sha256"] != told["sha256"]


def test_few_samples_and_one_class_are_said(tmp_path: Path) -> None:
    winners = np.array([load(MODELS / "digits.onnx").run({"image": p[np.newaxis]})["digit"].argmax() for p in PICTURES])
    threes = PICTURES[winners == 3][:4]
    np.save(tmp_path / "x.npy", threes)
    made, warnings = converted("onnx", tmp_path, tmp_path / "x.npy")
    assert len(warnings) == 2
    assert f"holds {len(threes)} samples: at least 10" in warnings[0]
    assert "shows one class only: the source answers 3 in 'digit'" in warnings[1]
    assert made.manifest.verification["warnings"] == warnings


@pytest.mark.parametrize("factor", [255, 1 / 100])
def test_values_far_from_the_probe_are_said(factor: float, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", (PICTURES * factor).astype("f4"))
    np.save(tmp_path / "p.npy", PICTURES)
    loose = Tolerance(min_cosine=-1, min_snr_db=-100, min_top1=0)
    _, warnings = converted("onnx", tmp_path, tmp_path / "x.npy", probe=tmp_path / "p.npy", tolerance=loose)
    (said,) = [w for w in warnings if "has values of" in w]
    assert f"has values of 0 to {factor:.4g} for 'image', and the probe of 0 to 1: both must be scaled" in said


def test_values_far_from_what_preprocess_declares_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PICTURES * 255)
    scaled = Preprocess(scale=1 / 255, color="gray", layout="NCHW")
    _, warnings = converted("onnx", tmp_path, tmp_path / "x.npy", preprocess=scaled)
    assert [w for w in warnings if "0 to 255 for 'image', and [preprocess] of 0 to 1" in w]


@pytest.mark.parametrize(
    ("shape", "dims", "said"),
    [
        ((3, 8, 6), (1, 8, 6, 3), "looks like NCHW, and the input is NHWC"),
        ((8, 6, 3), (1, 3, 8, 6), "looks like NHWC, and the input is NCHW"),
        ((1, 3, 8, 6), (1, 8, 6, 3), "looks like NCHW, and the input is NHWC"),
    ],
)
def test_another_layout_is_recognised(shape: tuple[int, ...], dims: tuple[int, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit("data", np.zeros(shape, "f4"), TensorSpec("image", dims, "float32"))
    with pytest.raises(DataError) as plain:
        fit("data", np.zeros((5, 5, 5), "f4"), TensorSpec("image", dims, "float32"))
    assert "looks like" not in str(plain.value)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(("value", "said"), [(np.nan, "holds NaN"), (np.inf, "holds infinite values")])
def test_values_that_are_not_finite_are_refused(to: str, value: float, said: str, tmp_path: Path) -> None:
    pictures = PICTURES.copy()
    pictures[63, 0, 2, 2] = value
    np.save(tmp_path / "x.npy", pictures)
    with pytest.raises(DataError, match=rf"x\.npy, sample 63 of 'image': {said}"):
        converted(to, tmp_path, tmp_path / "x.npy")
    assert not (tmp_path / "b").exists()


def test_a_method_is_refused_where_it_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--quantize dynamic has none"):
        convert(MODELS / "digits.tflite", tmp_path / "b", quantize="dynamic", calibration="mse")
    with pytest.raises(UnknownNameError, match="did you mean 'entropy'"):
        convert(MODELS / "digits.tflite", tmp_path / "b", quantize="int8", calibration="entrophy")


def test_the_command_warns_on_stderr_and_shows_what_was_tried(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PICTURES[:5])
    command = [sys.executable, "-m", "edgeferry_runtime", "convert", str(MODELS / "digits.onnx"), "--to", "onnx"]
    more = ["-o", str(tmp_path / "b"), "--quantize", "int8", "--calibrate", str(tmp_path / "x.npy")]
    done = subprocess.run([*command, *more, "--calibration", "auto"], capture_output=True, text=True, check=True)
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("ferry: warning: ")]
    assert warning.endswith("x.npy holds 5 samples: at least 10, better 100, show the ranges that occur in use")
    assert "calibrated by " in done.stdout
    assert all(f"{method} " in done.stdout for method in METHODS)
