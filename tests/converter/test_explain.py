"""Which layers lost what, why, and whether the override that is given repairs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter import Recipe, convert
from edgeferry_converter.explain import Explanation, explain, floats, rules
from edgeferry_converter.explain.inputs import Wanted, pair
from edgeferry_converter.explain.measure import Measures, Sums, first_below
from edgeferry_converter.explain.network import Op, Stored, open_network, upstream
from edgeferry_converter.explain.rules import Facts
from edgeferry_converter.explain.tflite_network import TfliteNetwork
from edgeferry_runtime.bundle import Bundle, Probe
from edgeferry_runtime.errors import DataError, MissingFileError, VerificationError
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.tensors import Quantization

pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
ANYTHING = Tolerance(min_cosine=-1, min_snr_db=-60, min_top1=0)
PLANTED = ("concat", "channel", "swish", "padding", "dead", "onnx_concat", "onnx_channel")


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(planted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted models, and what they are calibrated with as cal.npy."""
    folder = tmp_path_factory.mktemp("planted")
    np.save(folder / "cal.npy", planted.samples())
    for name in PLANTED:
        (folder / f"{name}{suffix(name)}").write_bytes(getattr(planted, name)())
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeferry"


def suffix(name: str) -> str:
    return ".onnx" if name.startswith("onnx") else ".tflite"


def quantized(folder: Path, name: str, target: Path, recipe: Recipe | None = None) -> Bundle:
    changes = {} if recipe else {"quantize": "int8", "to": suffix(name)[1:]}
    source = folder / f"{name}{suffix(name)}"
    return convert(source, target, recipe, calibrate=folder / "cal.npy", tolerance=ANYTHING, **changes)


def explained(folder: Path, name: str, bundle: Bundle) -> Explanation:
    return explain(bundle.artifact, folder / f"{name}{suffix(name)}", bundle.probe())


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("concat", "unequal concat", "joins quiet (up to "),
        ("onnx_concat", "unequal concat", "joins quiet (up to "),
        ("channel", "outlier channel", "channel 3 of features reaches "),
        ("onnx_channel", "outlier channel", "channel 3 of features reaches "),
        ("swish", "swish tail", "its negative tail"),
        ("padding", "padding value", "padded pads with -1e+03"),
    ],
)
def test_a_planted_flaw_is_found_and_the_pasted_override_repairs_it(
    name: str, rule: str, said: str, folder: Path, tmp_path: Path
) -> None:
    bundle = quantized(folder, name, tmp_path / "b")
    result = explained(folder, name, bundle)
    worst = result.layers[0]
    assert [reason.rule for reason in worst.reasons] == [rule]
    assert said in worst.reasons[0].text
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'to = "{suffix(name)[1:]}"\n[quantize]\nprecision = "int8"\n\n{result.override_toml()}')
    repaired = quantized(folder, name, tmp_path / "c", Recipe.from_toml(recipe))
    (before,), (after,) = (b.manifest.verification["outputs"] for b in (bundle, repaired))
    assert after["snr_db"] > before["snr_db"] + 10
    again = explained(folder, name, repaired)
    assert rule not in {reason.rule for layer in again.layers for reason in layer.reasons}


def facts(source: Path, artifact: Path, x: np.ndarray) -> Facts:
    before, after = open_network(source), open_network(artifact)
    measures = Measures(before, after, [{"x": row[None]} for row in x], -1)
    return Facts(before, after, {name: measures[name] for name in measures.names})


def test_a_dead_channel_is_named(folder: Path, tmp_path: Path, planted: ModuleType) -> None:
    bundle = quantized(folder, "dead", tmp_path / "b")
    known = facts(folder / "dead.tflite", bundle.artifact, planted.samples(4))
    found = rules.dead_channel(known, known.maker("start"), "start")
    assert found and found.layers == ("start",)
    assert found.text.startswith("channel 5 of the weights of start is dead")
    assert rules.dead_channel(known, known.maker("y"), "y") is None


def test_values_beyond_the_calibrated_range_are_named(folder: Path, tmp_path: Path, planted: ModuleType) -> None:
    bundle = quantized(folder, "dead", tmp_path / "b")
    loud = 10 * planted.samples(8)[:, None]
    result = explain(bundle.artifact, folder / "dead.tflite", Probe({"x": loud}, {}))
    said = {reason.rule: reason for layer in result.layers for reason in layer.reasons}
    assert "calibrate with data that reach as far" in said["saturated output"].advice


def test_a_rare_value_that_widens_the_range_is_named(folder: Path, tmp_path: Path, planted: ModuleType) -> None:
    bundle = quantized(folder, "dead", tmp_path / "b")
    rare = planted.samples(16)
    rare[3] *= 200
    known = facts(folder / "dead.tflite", bundle.artifact, rare)
    found = rules.outlier_value(known, known.maker("y"), "y")
    assert found and "--calibration percentile" in found.advice
    usual = facts(folder / "dead.tflite", bundle.artifact, planted.samples(16))
    assert rules.outlier_value(usual, usual.maker("y"), "y") is None


def test_uneven_weights_matter_only_where_one_scale_serves_all(folder: Path, tmp_path: Path) -> None:
    bundle = quantized(folder, "channel", tmp_path / "b")
    known = facts(folder / "channel.tflite", bundle.artifact, np.ones((1, 16), np.float32))
    maker = known.maker("features")
    assert rules.uneven_weights(known, maker, "features") is None, "each channel has its own scale"
    per_tensor = OneScale(folder / "channel.tflite")
    found = rules.uneven_weights(Facts(per_tensor, per_tensor, known.seen), maker, "features")
    assert found and found.text.startswith("channel 3 of the weights of features reaches")


class OneScale(TfliteNetwork):
    """A file whose every tensor is stored with one scale."""

    def stored(self, name: str) -> Stored:
        return Stored(Quantization((0.1,), (0,)), "int8")


def test_own_error_is_where_it_arises_and_accumulated_error_is_carried_on(folder: Path, tmp_path: Path) -> None:
    layers = {e.name: e for e in explained(folder, "channel", quantized(folder, "channel", tmp_path / "b")).layers}
    assert layers["head"].own_db is not None and layers["head"].own_db < 5
    assert layers["y"].own_db is not None and layers["y"].own_db > 30
    assert layers["y"].snr_db < 5
    assert layers["start"].own_db == pytest.approx(layers["start"].snr_db, abs=0.01), "nothing lies before it"


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_a_sound_model_needs_no_override(to: str, tmp_path: Path) -> None:
    source, data = MODELS / f"digits.{to}", MODELS / "digits.npz"
    bundle = convert(source, tmp_path / "b", to=to, quantize="int8", calibrate=data, samples=8)
    result = explain(bundle.artifact, source, bundle.probe())
    assert (result.first_below, result.keep_float, result.override_toml()) == (None, (), "")
    output = next(e for e in result.layers if e.name.endswith(("digit", "digit_output")))
    figure = next(o for o in bundle.manifest.verification["outputs"] if o["name"] == "digit")
    assert output.snr_db == pytest.approx(figure["snr_db"], abs=0.5), "the engine's own figure"
    assert output.cosine == pytest.approx(figure["cosine"], abs=1e-4)


def test_every_layer_runs_alone_where_a_pool_stands_between(tmp_path: Path, planted: ModuleType) -> None:
    source, data = tmp_path / "pool.onnx", tmp_path / "cal.npy"
    source.write_bytes(planted.onnx_pool())
    np.save(data, np.random.default_rng(0).normal(0, 1, (8, 1, 8, 8)).astype(np.float32))
    bundle = convert(source, tmp_path / "b", to="onnx", quantize="int8", calibrate=data, tolerance=ANYTHING)
    result = explain(bundle.artifact, source, bundle.probe())
    assert {layer.operator for layer in result.layers} == {"Conv", "MaxPool"}
    assert all(layer.own_db is not None and layer.own_db > 20 for layer in result.layers)


@pytest.mark.parametrize("precision", ["fp16", "dynamic"])
def test_other_precisions_are_explained_too(precision: str, tmp_path: Path) -> None:
    bundle = convert(MODELS / "digits.tflite", tmp_path / "b", quantize=precision, samples=4)
    result = explain(bundle.artifact, MODELS / "digits.tflite", bundle.probe())
    assert result.layers and all(layer.snr_db > 15 for layer in result.layers)


def test_small_groups_measure_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = quantized(folder, "concat", tmp_path / "b")
    whole = explained(folder, "concat", bundle)
    monkeypatch.setattr("edgeferry_converter.explain.measure.GROUP_BYTES", 1)
    parts = explained(folder, "concat", bundle)
    assert [(e.name, e.own_db, e.snr_db) for e in parts.layers] == [(e.name, e.own_db, e.snr_db) for e in whole.layers]


def test_bisection_measures_few_tensors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeferry_converter.explain.measure.GROUP_BYTES", 1)
    bundle = quantized(folder, "channel", tmp_path / "b")
    source = folder / "channel.tflite"
    result = explain(bundle.artifact, source, bundle.probe(), only_first=True)
    assert result.first_below == "head"
    measures = Measures(open_network(source), open_network(bundle.artifact), list(bundle.probe().feeds()), -1)
    assert len(result.layers) < len(measures.names)


@given(st.integers(1, 300), st.data())
def test_bisection_finds_the_first_in_logarithmic_time(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    asked = []

    def below(name: str) -> bool:
        asked.append(name)
        return int(name) >= first

    found = first_below([str(i) for i in range(count)], below)
    assert found == (str(first) if first < count else None)
    assert len(asked) <= 1 + count.bit_length()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), st.integers(1, 19))
def test_sums_do_not_depend_on_how_samples_are_split(values: list[float], at: int) -> None:
    reference = np.array(values)
    actual = np.round(reference)
    once, twice = Sums(), Sums()
    once.add(reference, actual)
    twice.add(reference[:at], actual[:at])
    twice.add(reference[at:], actual[at:])
    assert twice.snr_db == pytest.approx(once.snr_db)
    assert twice.cosine == pytest.approx(once.cosine)


def test_upstream_stops_at_what_is_given_and_computes_what_is_wanted() -> None:
    ops = [Op("A", "a", ("x",), ("a",)), Op("B", "b", ("a",), ("b",)), Op("C", "c", ("b", "a"), ("c",))]
    assert upstream(ops, ["c"], {"x"}) == [0, 1, 2]
    assert upstream(ops, ["c"], {"a", "b", "c"}) == [2]
    assert upstream(ops, ["b"], {"b", "a"}) == [1]


def test_a_bundle_alone_suffices_after_a_conversion(folder: Path, tmp_path: Path, cache: Path) -> None:
    bundle = quantized(folder, "channel", tmp_path / "b")
    with pair(Wanted(bundle.path)) as found:
        assert found.float_artifact.parent == cache / "float"
        assert found.precision == "int8"
    found.float_artifact.write_bytes(b"changed")
    with pytest.raises(MissingFileError, match="give --float FILE, or --source MODEL"), pair(Wanted(bundle.path)):
        pass
    with pair(Wanted(bundle.path, source=str(folder / "channel.tflite"))) as found:
        assert open_network(found.float_artifact).ops == open_network(folder / "channel.tflite").ops
    with pair(Wanted(bundle.artifact, folder / "channel.tflite", probe=folder / "cal.npy")) as found:
        assert len(found.probe) == 32


def test_what_fails_its_proof_is_set_aside_for_an_explanation(folder: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(VerificationError, match="see which layers: ferry explain ") as failure:
        convert(folder / "channel.tflite", tmp_path / "b", quantize="int8", calibrate=folder / "cal.npy")
    assert not (tmp_path / "b").exists()
    assert str(cache / "failed" / "b") in str(failure.value)
    with pair(Wanted(cache / "failed" / "b")) as found:
        assert explain(found.artifact, found.float_artifact, found.probe).first_below == "head"


def test_the_cache_is_bounded_and_lets_go_of_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "KEPT_BYTES", 25)
    files = [tmp_path / f"{i}.tflite" for i in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 10)
    hashes = [floats.keep(file) for file in files]
    assert [floats.find(sha256, "tflite") is not None for sha256 in hashes] == [False, True, True]
    (tmp_path / "big.tflite").write_bytes(bytes(26))
    assert floats.find(floats.keep(tmp_path / "big.tflite"), "tflite") is None
    assert floats.find("../secret", "tflite") is None


def test_nothing_to_explain_is_said(folder: Path, tmp_path: Path) -> None:
    bundle = convert(folder / "channel.tflite", tmp_path / "b")
    with pytest.raises(DataError, match="nothing in it was quantized"), pair(Wanted(bundle.path)):
        pass
    with pytest.raises(DataError, match="shares no tensor"):
        explain(bundle.artifact, MODELS / "digits.tflite", bundle.probe())


def ferry(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeferry_runtime", "explain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_ranks_and_gives_lines_to_paste(folder: Path, tmp_path: Path) -> None:
    bundle = quantized(folder, "channel", tmp_path / "b")
    done = ferry(bundle.path, "--top", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["layer", "operator", "own", "dB", "SNR", "dB", "cosine"]
    assert lines[1].split()[:2] == ["head", "FULLY_CONNECTED"]
    assert "2 of 4 layers, over 32 samples" in lines
    assert "the first tensor below 20 dB is head" in lines
    assert '[quantize]\nprecision = "int8"\n\n[[quantize.override]]\nlayer = "features"\n' in done.stdout
    data = json.loads(ferry(bundle.path, "--json", "--top", 1).stdout)
    assert (data["schema"], len(data["layers"]), data["first_below"]) == (1, 1, "head")
    assert data["layers"][0]["reasons"][0]["rule"] == "outlier channel"


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    done = ferry(MODELS / "digits.tflite")
    assert done.returncode == 1
    assert "give --float FILE, or --source MODEL" in done.stderr
