"""What ``benchmark_model`` prints: as people published it, and what is no such output."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.foreign.output import Delegated, ignored, parse
from edgeferry_runtime.errors import EngineError

RECORDED = Path(__file__).parent / "recorded"
LOGCAT = (RECORDED / "benchmark_model_logcat.log").read_text()
GPU = (RECORDED / "benchmark_model_gpu.log").read_text()
OLD = (RECORDED / "benchmark_model_old.log").read_text()
SAME = OLD.replace("count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798",
                   "count=50 curr=12(all same) p5=12 median=12 p95=12")  # fmt: skip


def test_androids_log() -> None:
    told = parse("x", LOGCAT)
    assert (told.init_ms, told.first_ms, told.warmup_ms) == (92.318, 187.533, 211.669)
    assert (told.warmup_runs, told.num_runs) == (3, 25)
    figures = {"mean": 145.528, "stddev": 13.583, "min": 140.071, "max": 195.121}
    assert told.figures == {**figures, "p5": 140.545, "median": 141.253, "p95": 187.533}
    assert told.memory_bytes == {"init": 56922158, "overall": 76976174}
    assert (told.delegated, told.share) == ((), None)


def test_a_delegate_that_took_a_part() -> None:
    told = parse("x", GPU)
    assert told.share == "part"
    assert told.delegated == (Delegated("TfLiteGpuDelegateV2", 62, 64, 3), Delegated("TfLiteXNNPackDelegate", 2, 4, 3))
    assert (told.num_runs, told.figures["mean"], told.figures["max"]) == (1000, pytest.approx(1.05034), 2.1)
    assert told.memory_bytes["overall"] == round(138.809 * 2**20)


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.", "all"),
        ("Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.", "none"),
        ("Created TensorFlow Lite XNNPACK delegate for CPU.", None),
    ],
)
def test_how_much_a_delegate_took(line: str, share: str | None) -> None:
    assert parse("x", f"INFO: {line}\n{LOGCAT}").share == share


def test_runs_that_all_took_the_same_time() -> None:
    told = parse("x", SAME)
    assert set(told.figures.values()) == {0.012, 0.0}
    assert told.figures["stddev"] == 0
    assert told.memory_bytes == {}


def test_a_program_that_tells_no_median_is_too_old() -> None:
    with pytest.raises(EngineError, match=r"does not tell p5, median, p95 of its runs; give one .* newer sources"):
        parse("old", OLD)


@pytest.mark.parametrize(
    "text", ["", "hello\n", LOGCAT.split("Inference", maxsplit=1)[0], "Inference timings in us: Init: 1, First"]
)
def test_what_is_no_such_output(text: str) -> None:
    with pytest.raises(EngineError, match="printed no 'Inference timings'"):
        parse("ls", text)


@given(st.text(max_size=80), st.integers(0, len(LOGCAT)))
def test_any_other_text_is_an_error_or_read(noise: str, at: int) -> None:
    try:
        told = parse("x", LOGCAT[:at] + noise + LOGCAT[at:])
    except EngineError:
        return
    assert set(told.figures) == {"mean", "stddev", "min", "max", "p5", "median", "p95"}


def test_flags_that_it_did_not_know() -> None:
    assert ignored(OLD) == ("--use_npu=true", "--fancy")
    assert ignored(LOGCAT) == ()
