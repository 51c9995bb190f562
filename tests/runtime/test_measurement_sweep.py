"""Sweeps: what is tried, what is refused, and what is recommended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.benchmark import BenchOptions
from edgeferry_runtime.errors import EngineError, MissingFileError
from edgeferry_runtime.measurement.sweep import Row, candidates, recommend, sweep

QUICK = BenchOptions(num_runs=20, warmup_runs=2, min_secs=0, max_warmup_secs=0)
COMMAND = ("--num-runs", 5, "--warmup-runs", 2, "--min-secs", 0, "--max-warmup-secs", 0, "--sweep")


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (12, [1, 2, 4, 8, 12])],
)
def test_threads_are_doubled_up_to_all_cores(cores: int, counts: list[int]) -> None:
    assert candidates("onnx", cores) == (*(f"cpu:{count}" for count in counts), "gpu", "npu")
    assert candidates("tflite", cores)[-1] == "edgetpu"


def row(delegate: str, low: float, high: float) -> Row:
    return Row(delegate, (low + high) / 2, (low, high), {}, ())


@pytest.mark.parametrize(
    ("rows", "chosen", "reason"),
    [
        ([row("cpu:4", 1, 1.1), row("cpu:1", 3, 3.1)], "cpu:4", "the fastest, and no other interval overlaps"),
        (
            [row("cpu:4", 1, 1.2), row("cpu:2", 1.1, 1.3), row("cpu:1", 3, 4)],
            "cpu:2",
            "cannot be told from the fastest (cpu:4)",
        ),
        ([row("cpu:1", 1, 1.2), row("cpu:2", 1.1, 1.3)], "cpu:1", "as cheap as any that may be as fast (cpu:2)"),
        ([row("gpu", 1, 1.2), row("cpu:4", 1.1, 1.3)], "cpu:4", "cannot be told from the fastest (gpu)"),
        ([row("gpu", 1, 1.05), row("cpu:4", 1.1, 1.3)], "gpu", "the fastest"),
    ],
)
def test_the_recommendation(rows: list[Row], chosen: str, reason: str) -> None:
    best, why = recommend(rows)
    assert best.delegate == chosen
    assert reason in why


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 2)), min_size=1, max_size=6))
def test_what_is_recommended_may_be_the_fastest_and_nothing_cheaper_may(pairs: list[tuple[float, float]]) -> None:
    rows = [row(f"cpu:{i}", low, low + width) for i, (low, width) in enumerate(pairs, 1)]
    rows.sort(key=lambda r: r.median_ms)
    best, _ = recommend(rows)
    ties = [r for r in rows if r.median_ms_ci95[0] <= rows[0].median_ms_ci95[1]]
    assert best in ties
    assert int(best.delegate[4:]) == min(int(r.delegate[4:]) for r in ties)


@pytest.mark.slow
def test_what_cannot_be_used_is_told_and_the_rest_is_measured(artifacts) -> None:
    said: list[str] = []
    found = sweep(artifacts["dense.tflite"], ("cpu:1", "edgetpu", "cpu:2"), QUICK, rounds=2, say=said.append)
    assert {r.delegate for r in found.rows} == {"cpu:1", "cpu:2"}
    assert [r.median_ms for r in found.rows] == sorted(r.median_ms for r in found.rows)
    assert list(found.refused) == ["edgetpu"]
    assert found.recommended in ("cpu:1", "cpu:2")
    order = [line.split()[4] for line in said if line.startswith("round")]
    assert order == ["cpu:1", "edgetpu", "cpu:2", "cpu:2", "cpu:1"]


@pytest.mark.slow
def test_nothing_that_can_be_used_is_an_error(artifacts, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        sweep(artifacts["dense.tflite"], ("edgetpu",), QUICK)
    with pytest.raises(MissingFileError):
        sweep(tmp_path / "none.onnx", ("cpu",), QUICK)


@pytest.mark.slow
def test_the_command_prints_a_table_and_json(ferry, artifacts) -> None:
    code, out, err = ferry("bench", artifacts["pair.onnx"], *COMMAND)
    assert code == 0
    assert out.splitlines()[0].split() == ["delegate", "median", "95", "%", "interval", "nodes", "executes"]
    assert all(name in out for name in ("cpu:1", "gpu", "npu"))
    assert out.splitlines()[-1].startswith("recommended: --delegate cpu:")
    assert "round 3 of 3: cpu:1 " in err
    code, out, _ = ferry("bench", artifacts["pair.onnx"], *COMMAND, "--json")
    data = json.loads(out)
    assert code == 0
    assert data["recommended"] in [r["delegate"] for r in data["rows"]]


@pytest.mark.parametrize("other", [("--delegate", "cpu:2"), ("--sustained", "5m")])
def test_what_does_not_go_together(ferry, artifacts, other: tuple[str, str]) -> None:
    code, out, err = ferry("bench", artifacts["pair.onnx"], "--sweep", *other)
    assert (code, out) == (2, "")
    assert f"--sweep: does not go together with {other[0]}; leave out {other[0]}" in err
