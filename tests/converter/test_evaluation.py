"""Accuracy that a conversion measures, and the gate on what may be lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter import Recipe, convert, plan
from edgeferry_converter.comparison.accuracy import Accuracy
from edgeferry_converter.evaluation import check, describe
from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DataError, EdgeferryError, UnknownNameError, UsageError, VerificationError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import Tolerance

pytest.importorskip("ai_edge_quantizer")

MODELS = Path(__file__).parent / "models"
LITE = MODELS / "digits.tflite"
INT8 = {"quantize": "int8", "calibrate": MODELS / "digits.npz"}
QUICK = BenchOptions(num_runs=2, warmup_runs=1, min_secs=0, max_warmup_secs=0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what failed is set aside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of digits, with what the float model answers as the truth; two labels are wrong."""
    image = np.load(MODELS / "digits.npz")["image"]
    with load(LITE) as model:
        answers = [model.run({"image": x[np.newaxis]}) for x in image]
    labels = np.array([int(np.argmax(a["digit"])) for a in answers])
    labels[:2] = (labels[:2] + 1) % 10
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "labelled.npz", image=image, label=labels)
    np.savez(folder / "features.npz", image=image, features=np.concatenate([a["features"] for a in answers]))
    return folder / "labelled.npz"


@pytest.fixture(scope="module")
def bundle(labelled: Path) -> Bundle:
    return convert(LITE, labelled.with_name("digits"), evaluate=labelled, max_drop=2, **INT8)


@pytest.mark.slow
def test_the_manifest_tells_the_accuracy_of_source_and_artifact(bundle: Bundle) -> None:
    found = bundle.manifest.verification["accuracy"]
    assert list(found) == ["metric", "output", "samples", "source", "artifact", "drop"]
    assert (found["metric"], found["output"], found["samples"]) == ("top1", "digit", 64)
    assert found["source"] == pytest.approx(100 * 62 / 64)
    assert found["drop"] == found["source"] - found["artifact"] <= 2
    bundle.check()


@pytest.mark.slow
def test_it_is_what_verify_measures(bundle: Bundle, labelled: Path) -> None:
    from edgeferry_converter.comparison import Options, verify

    found = verify(str(LITE), str(bundle.path), Options(data=labelled)).accuracy
    assert found is not None and describe(found) == bundle.manifest.verification["accuracy"]


def test_a_profile_carries_it(bundle: Bundle) -> None:
    assert bench(bundle.path, QUICK).artifact["accuracy"] == bundle.manifest.verification["accuracy"]
    assert bench(bundle.artifact, QUICK).artifact["accuracy"] is None


@pytest.mark.slow
def test_the_recipe_in_the_bundle_makes_the_same_bundle_again(bundle: Bundle) -> None:
    recipe = Recipe.from_toml(bundle.path / "recipe.toml")
    assert (recipe.max_drop, recipe.metric) == (2, "top1")
    again = convert(LITE, bundle.path.with_name("again"), recipe, name="digits")
    assert again.manifest.verification == bundle.manifest.verification
    assert again.manifest.files["model.tflite"] == bundle.manifest.files["model.tflite"]
    assert convert(LITE, bundle.path, recipe).id == bundle.id


@pytest.mark.slow
def test_too_great_a_drop_leaves_nothing_and_is_set_aside(labelled: Path, tmp_path: Path, cache: Path) -> None:
    wanted = {"evaluate": labelled.with_name("features.npz"), "metric": "mse", "metric_output": "features"}
    with pytest.raises(VerificationError, match=r"mse of 'features' goes from 0 to .* above --max-drop 50") as caught:
        convert(LITE, tmp_path / "out", max_drop=50, **wanted, **INT8)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    failed = Bundle.open(cache / "edgeferry" / "failed" / "out")
    assert str(failed.path) in caught.value.fix
    assert failed.manifest.verification["accuracy"]["drop"] is None
    assert convert(LITE, tmp_path / "out", **wanted, **INT8).manifest.verification["accuracy"]["source"] == 0


@pytest.mark.slow
def test_an_older_bundle_stays_where_the_gate_fails(bundle: Bundle, labelled: Path, tmp_path: Path) -> None:
    old = convert(LITE, tmp_path / "out")
    features = labelled.with_name("features.npz")
    with pytest.raises(VerificationError):
        convert(LITE, tmp_path / "out", evaluate=features, metric="mse", metric_output="features", max_drop=0, **INT8)
    assert Bundle.open(tmp_path / "out").id == old.id


@pytest.mark.parametrize(
    ("a", "b", "drop", "limit", "holds"),
    [
        (90.0, 89.5, 0.5, 0.5, True),
        (90.0, 89.4, 0.6, 0.5, False),
        (90.0, 91.0, -1.0, 0.0, True),
        (90.0, 1.0, 89.0, None, True),
        (0.0, 1.0, float("inf"), 1e9, False),
        (float("nan"), 1.0, float("nan"), 1e9, False),
    ],
)
def test_the_gate(a: float, b: float, drop: float, limit: float | None, holds: bool) -> None:
    found = Accuracy("top1", "y", 10, a, b, drop)
    with contextlib.nullcontext() if holds else pytest.raises(VerificationError, match="above --max-drop"):
        check("x", found, limit)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"max_drop": 1}, UsageError, "--max-drop: is of accuracy"),
        ({"metric": "mse"}, UsageError, "--metric: is of accuracy"),
        ({"metric_output": "digit"}, UsageError, "--metric-output: is of accuracy"),
        ({"evaluate": MODELS / "digits.npz"}, DataError, "has no labels"),
        ({"evaluate": MODELS / "nowhere.npz"}, EdgeferryError, "nowhere.npz"),
        ({"evaluate": LITE}, EdgeferryError, "digits.tflite"),
        ({"labelled": True, "metric": "auc"}, UsageError, "choose one with --metric-output"),
        ({"labelled": True, "metric_output": "digits"}, UnknownNameError, "did you mean 'digit'"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_source_is_run(
    labelled: Path, tmp_path: Path, changes: dict[str, object], error: type[EdgeferryError], said: str
) -> None:
    given = {"evaluate": labelled, **changes} if changes.get("labelled") else changes
    steps: list[str] = []
    with pytest.raises(error, match=said):
        given = {key: value for key, value in given.items() if key != "labelled"}
        convert(LITE, tmp_path / "out", progress=lambda step: steps.append(step.name), **given)
    assert not any(step.startswith("run the source") for step in steps)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [-1, float("nan"), "1", True])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        Recipe(max_drop=limit)  # type: ignore[arg-type]


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="top1, mse, auc"):
        Recipe(metric="top5")


def test_the_plan_tells_it(labelled: Path, tmp_path: Path) -> None:
    from edgeferry_converter.commands.plan_text import steps

    planned = plan(LITE, tmp_path / "out", dataclasses.replace(Recipe(), evaluate=labelled, max_drop=0.5))
    assert f"measure top1 of both on {labelled}, a drop of at most 0.5" in steps(planned)


@pytest.mark.slow
def test_the_command_shows_it_and_ends_with_3_where_too_much_is_lost(labelled: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeferry_runtime", "convert", str(LITE), "-o", str(tmp_path / "out")]
    command += ["--quantize", "int8", "--calibrate", str(MODELS / "digits.npz")]
    good = [*command, "--evaluate", str(labelled), "--max-drop", "5"]
    done = subprocess.run(good, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\ntop1 of 'digit' on 64 labelled samples: source 96.88%, artifact " in done.stdout
    assert "measure top1 on 64 labelled samples ... " in done.stderr
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["verification"]["accuracy"]
    assert told["samples"] == 64
    bad = [*command, "--evaluate", str(labelled.with_name("features.npz")), "--metric", "mse", "--max-drop", "0"]
    done = subprocess.run([*bad, "--metric-output", "features"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(f"ferry: error: {LITE} as tflite int8: mse of 'features' goes from")


@pytest.mark.slow
@pytest.mark.parametrize(("signature", "names"), [(None, ("x", "y")), ("zero", ("question", "answer"))])
def test_of_several_signatures_it_is_the_primary_one(
    tmp_path: Path, signature: str | None, names: tuple[str, str]
) -> None:
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "runtime" / "tiny_models.py"))
    (tmp_path / "two.tflite").write_bytes(tiny["tflite_two_signatures"]())
    shape = (5, 1, 4) if signature is None else (5, 2, 3)
    fed = np.random.default_rng(0).random(shape, np.float32)
    np.savez(tmp_path / "data.npz", **{names[0]: fed, names[1]: 2 * fed if signature is None else 0 * fed + 1})
    chosen = {"signature": signature} if signature else {}
    made = convert(tmp_path / "two.tflite", tmp_path / "out", evaluate=tmp_path / "data.npz", metric="mse", **chosen)
    found = made.manifest.verification["accuracy"]
    assert (found["output"], found["samples"]) == (names[1], 5)
    assert found["source"] == found["artifact"] == (0 if signature is None else 1)


@pytest.mark.slow
@pytest.mark.zoo
def test_keywords_of_the_zoo_keep_their_accuracy(zoo: Path, tmp_path: Path) -> None:
    clips = np.load(zoo / "mlperf-tiny" / "kws01_500.npz")
    real = ((clips["features_int8"].astype(np.float32) - clips["zero_point"]) * clips["scale"]).astype(np.float32)
    real = real.reshape(-1, 49, 10, 1)
    np.savez(tmp_path / "k.npz", features=real, label=clips["label"])
    np.save(tmp_path / "typical.npy", real[::5])
    source = next((zoo / "mlperf-tiny").rglob("kws_ref_model"))
    given = {"evaluate": tmp_path / "k.npz", "calibrate": tmp_path / "typical.npy", "quantize": "int8"}
    found = convert(source, tmp_path / "kws", max_drop=0.5, **given).manifest.verification["accuracy"]
    assert found["samples"] == len(real)
    assert found["source"] > 88
    assert found["drop"] <= 0.5
    np.save(tmp_path / "typical.npy", real[::5] / 50)
    loose = Tolerance(min_cosine=-1, min_snr_db=-300, min_top1=0)
    with pytest.raises(VerificationError, match=r"top1 of .* above --max-drop 0.5"):
        convert(source, tmp_path / "bad", max_drop=0.5, tolerance=loose, **given)
