"""Time per operator, on the engines themselves and as it is summed up."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.benchmark import BenchOptions, bench, operators, operators_fresh
from edgeferry_runtime.commands.operators_text import operators_text
from edgeferry_runtime.engines import litert_native, litert_operators, onnx_operators
from edgeferry_runtime.engines.litert_native import Event
from edgeferry_runtime.engines.litert_operators import Graph, read_run
from edgeferry_runtime.engines.recording import Recording, Timed
from edgeferry_runtime.errors import EngineCrashError, EngineError, MissingFileError
from edgeferry_runtime.feeds import random_feeds
from edgeferry_runtime.measurement import fresh
from edgeferry_runtime.measurement.operators import OperatorTimes, summarize_operators
from edgeferry_runtime.model import load

QUICK = BenchOptions(num_runs=12, warmup_runs=3, min_secs=0, max_warmup_secs=0)
FORMATS = ("tflite", "onnx")
BRANCHES = {True: "MAT", False: "IDE"}


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("operators")
    files = {f"{name}.{kind}": getattr(tiny, f"{kind}_{name}")() for name in ("planted", "if") for kind in FORMATS}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


@pytest.fixture(scope="module")
def planted(models) -> dict[str, OperatorTimes]:
    return {kind: operators_fresh(models[f"planted.{kind}"], QUICK) for kind in FORMATS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_the_slowest_operator_is_named(planted, kind: str) -> None:
    slowest = planted[kind].slowest()[0]
    assert slowest.name == "h2"
    assert slowest.share > 0.5
    assert slowest.calls == 1
    assert planted[kind].runs == 12
    assert sum(o.share for o in planted[kind].operators) == pytest.approx(1)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_sum_is_about_the_run(planted, kind: str) -> None:
    check_sum(planted[kind])


def check_sum(times: OperatorTimes) -> None:
    """See that operators make up most of the runs that they were measured in, and that these are not much longer.

    Runs with and without the profiler lie one after the other, so a busy machine tells them apart.
    """
    assert 0.5 < times.sum_us / times.profiled_us < 1.1
    assert 0.1 < times.coverage < 10
    assert times.coverage == pytest.approx(times.slowdown * times.sum_us / times.profiled_us)


def test_onnx_operators_are_those_of_the_graph_without_what_was_folded(planted) -> None:
    times = planted["onnx"]
    assert times.graph == {"MatMul": 4, "Identity": 1, "Softmax": 1}
    assert Counter(o.type for o in times.operators) == {"MatMul": 4, "Softmax": 1}
    assert [o.name for o in times.operators] == ["h0", "h1", "h2", "h3", "y"]
    assert times.absent == {"Identity": 1}
    assert {o.provider for o in times.operators} == {"CPUExecutionProvider"}


def test_litert_operators_are_those_of_xnnpack_under_the_names_of_their_nodes(planted) -> None:
    times = planted["tflite"]
    assert times.graph == times.absent == {"FULLY_CONNECTED": 4, "SOFTMAX": 1}
    assert {o.provider for o in times.operators} == {"XNNPACK"}
    named = [o.name for o in times.operators if not o.name.startswith("xnnpack:")]
    assert named == ["h0", "h1", "h2", "h3", "y"]
    assert "ai-edge-litert" in times.method
    assert "whole microseconds" in times.notes[0]


def test_what_a_branch_executes_counts_once_on_onnx(models) -> None:
    times = operators(models["if.onnx"], replace(QUICK, seed=1))
    by_type = {o.type: o for o in times.operators}
    branch = by_type.keys() - {"If"}
    assert len(branch) == 1
    assert times.sum_us <= 1.1 * times.profiled_us
    if branch == {"MatMul"}:
        assert by_type["If"].median_us < by_type["MatMul"].median_us


@pytest.mark.parametrize("kind", FORMATS)
def test_inputs_arrive_so_that_the_right_branch_is_timed(models, kind: str) -> None:
    with load(models[f"if.{kind}"]) as model:
        flags = {seed: bool(random_feeds(model.inputs, seed)["flag"].all()) for seed in range(8)}
    assert set(flags.values()) == {True, False}
    for wanted in (True, False):
        seed = next(seed for seed, flag in flags.items() if flag is wanted)
        executed = {o.type.upper()[:3] for o in operators(models[f"if.{kind}"], replace(QUICK, seed=seed)).operators}
        assert executed - {"IF", "COP"} == {{"tflite": {True: "ADD", False: "SUB"}, "onnx": BRANCHES}[kind][wanted]}


def test_texts_are_refused_with_the_reason(tiny, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "text.tflite").write_bytes(tiny.tflite_reshape("object"))
    with pytest.raises(EngineError, match="it has no buffers for texts"):
        operators(tmp_path / "text.tflite", QUICK)


@pytest.mark.slow
def test_what_a_branch_executes_counts_once_on_litert(models) -> None:
    times = operators_fresh(models["if.tflite"], QUICK)
    assert {o.type for o in times.operators} & {"IF"}
    assert len(times.operators) >= 2
    assert times.sum_us <= 1.1 * times.profiled_us
    assert any("own time of IF" in note for note in times.notes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pair.tflite", "batch.tflite", "int8.tflite", "second.tflite", "int8.onnx"])
def test_signatures_dynamic_shapes_and_quantized_inputs(artifacts, kind: str) -> None:
    assert operators_fresh(artifacts[kind], QUICK).operators


@pytest.mark.parametrize("kind", ["pair.tflite", "pair.onnx"])
def test_a_bundle_is_fed_its_probe(make_bundle, kind: str) -> None:
    assert operators(make_bundle(kind).path, replace(QUICK, delegate="cpu:1")).operators


@pytest.mark.slow
def test_a_profile_has_them_and_keeps_them_as_json(ferry, models) -> None:
    quick = ("--num-runs", 5, "--warmup-runs", 2, "--min-secs", 0, "--max-warmup-secs", 0)
    code, out, _ = ferry("bench", models["planted.onnx"], *quick, "--ops", "--json")
    found = json.loads(out)
    assert code == 0
    assert [o["name"] for o in found["operators"]] == ["h0", "h1", "h2", "h3", "y"]
    assert found["operators_run"]["coverage"] > 0
    code, out, _ = ferry("bench", models["planted.tflite"], *quick, "--ops", "--top", 2)
    assert code == 0
    assert "by node, 2 of " in out
    assert "h2" in out
    assert "the profiler made a run" in out


def test_nothing_is_measured_unasked(artifacts) -> None:
    profile = bench(artifacts["pair.onnx"], QUICK)
    assert (profile.operators, profile.operators_run) == ((), {})


def test_a_sweep_measures_no_operators(ferry, artifacts) -> None:
    code, out, err = ferry("bench", artifacts["pair.onnx"], "--sweep", "--ops")
    assert (code, out) == (2, "")
    assert "--sweep: does not go together with --ops" in err


@pytest.mark.parametrize("delegate", ["gpu", "gpu,cpu", "./none.so"])
def test_only_the_cpu_tells(ferry, artifacts, delegate: str) -> None:
    with pytest.raises(EngineError, match="has no profiler that tells time per operator"):
        operators(artifacts["pair.onnx"], replace(QUICK, delegate=delegate))


@pytest.mark.slow
def test_errors_arrive_from_the_process(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        operators_fresh(tmp_path / "none.tflite")


def test_a_core_without_the_instructions_is_told(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "command", lambda: ["sh", "-c", "read request; exit 132"])
    with pytest.raises(EngineCrashError, match="this CPU lacks instructions"):
        operators_fresh(artifacts["pair.tflite"])


def test_old_and_odd_wheels_are_refused_with_the_reason(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    path = artifacts["pair.tflite"]
    with pytest.raises(EngineError, match=r"2\.1\.0 has no profiler .*install ai-edge-litert 2\.1\.6 or newer"):
        litert_native.open_library(path, "2.1.0")
    with monkeypatch.context() as patch:
        patch.setattr(litert_native, "LIBRARY", "libNone.so")
        with pytest.raises(EngineError, match=r"does not bring libNone\.so"):
            litert_native.open_library(path, "2.3.0")
    monkeypatch.setattr(litert_native, "NEEDED", ("LiteRtStartProfiler", "LiteRtGone"))
    with pytest.raises(EngineError, match="does not export LiteRtGone"):
        litert_native.open_library(path, "2.3.0")
    with pytest.raises(EngineError, match="tflite_runtime has no profiler"):
        litert_operators.describe(path, SimpleNamespace(name="tflite_runtime"))


def test_events_of_another_layout_are_refused(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    shorter = type("Event", (litert_native.ctypes.Structure,), {"_fields_": Event._fields_[:-3] + Event._fields_[-1:]})
    monkeypatch.setattr(litert_native, "Event", shorter)
    with pytest.raises(EngineError, match="laid out in another way"):
        operators(artifacts["pair.tflite"], QUICK)


def event(kind: int, us: int = 0, index: int = 0, subgraph: int = 0) -> Event:
    return Event(type=kind, elapsed_us=us, index=index, subgraph=subgraph)


def test_a_loop_keeps_what_is_its_own() -> None:
    events = [
        ("Invoke", event(1, 100)),
        ("WHILE", event(2, 90, 1)),
        *[("Invoke", event(1, 30, 0, 1)), ("ADD", event(2, 20, 0, 1)), ("Invoke", event(32, subgraph=1))],
        *[("Invoke", event(1, 40, 0, 1)), ("ADD", event(2, 30, 0, 1)), ("Invoke", event(32, subgraph=1))],
        *[("Add (ND)", event(8, 3, 0)), ("Add (ND)", event(8, 4, 1)), ("Add (ND)", event(8, 5, 0))],
        ("Invoke", event(32)),
    ]
    found = read_run(events, Graph((("a", "loop"), ("body",)), ("ADD", "WHILE")))
    assert [(t.name, t.us) for t in found[:3]] == [("loop", 20), ("body", 20), ("body", 30)]
    assert [t.name for t in found[3:]] == ["xnnpack:0:1:0", "xnnpack:0:1:1", "xnnpack:0:2:0"]


def node(name: str, op: str, ts: int, dur: int) -> dict[str, object]:
    arguments = {"op_name": op, "node_index": "0", "provider": "CPUExecutionProvider"}
    return {"name": f"{name}_kernel_time", "cat": "Node", "ts": ts, "dur": dur, "args": arguments}


def test_nested_branches_keep_what_is_their_own() -> None:
    ended = [node("a", "Add", 2, 3), node("", "Add", 7, 2), node("in", "If", 6, 4), node("out", "If", 1, 10)]
    found = {t.name: t.us for t in onnx_operators.own_times([*ended, node("b", "Mul", 11, 5)])}
    assert found == {"a": 3, "Add:0": 2, "in": 2, "out": 3, "b": 5}


@pytest.mark.slow
@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), max_size=8), min_size=1, max_size=8))
def test_sums_add_up(runs: list[list[tuple[int, float]]]) -> None:
    recorded = tuple(tuple(Timed((key,), str(key), f"T{key % 2}", "P", us) for key, us in run) for run in runs)
    times = summarize_operators(Recording("m", (1.0,), (2.0,), recorded))
    total = sum(us for run in runs for _, us in run) / len(runs)
    assert sum(o.mean_us for o in times.operators) == pytest.approx(total)
    assert sum(o.mean_us for o in times.by_type()) == pytest.approx(total)
    assert sum(o.calls for o in times.operators) == pytest.approx(sum(map(len, runs)) / len(runs))
    assert times.slowdown == 2
    assert OperatorTimes.from_dict(json.loads(json.dumps(times.to_dict()))) == times


@pytest.mark.zoo
def test_partitions_and_kernels_of_a_real_model(zoo: Path) -> None:
    times = operators_fresh(zoo / "coral/movenet_single_pose_lightning_ptq.tflite", QUICK)
    assert {o.provider for o in times.operators} == {"TFLite", "XNNPACK"}
    own = Counter(o.type for o in times.operators if o.provider == "TFLite")
    assert own["GATHER_ND"] == times.graph["GATHER_ND"] == 4
    inside = sum(times.graph.values()) - own.total()
    assert inside == sum(times.absent.values())
    convolutions = [o for o in times.operators if o.type.startswith(("Convolution", "Fully Connected"))]
    assert len(convolutions) == times.graph["CONV_2D"] + times.graph["DEPTHWISE_CONV_2D"]
    assert not any(o.name.startswith("xnnpack:") for o in convolutions)
    check_sum(times)


@pytest.mark.zoo
def test_scalars_reach_it_and_variables_are_refused_with_the_reason(zoo: Path) -> None:
    assert operators_fresh(zoo / "litert-testdata/tflite/java/src/testdata/multi_signature_def.bin", QUICK).operators
    with pytest.raises(EngineError, match="Variable tensors not yet supported"):
        operators_fresh(zoo / "coral/keras_lstm_mnist_ptq.tflite", QUICK)


@pytest.mark.zoo
def test_fused_operators_of_a_real_model_keep_their_names(zoo: Path) -> None:
    times = operators_fresh(zoo / "ultraface/models/onnx/version-RFB-320.onnx", QUICK)
    assert times.absent["Relu"] > 5
    convolutions = [o for o in times.operators if "Conv" in o.type]
    assert len(convolutions) == times.graph["Conv"]
    assert max(times.operators, key=lambda o: o.median_us) in convolutions
    check_sum(times)


def test_long_names_show_their_ends() -> None:
    name = "x" * 80 + "/Conv"
    recorded = ((Timed(("a",), name, "Conv", "CPUExecutionProvider", 1.0),),)
    text = operators_text(summarize_operators(Recording("m", (1.0,), (1.0,), recorded, {"Conv": 2})), 3)
    assert f"...{'x' * 52}/Conv" in text
    assert "by node, 1\n" in text
    assert "1 Conv" in text.splitlines()[-1]
