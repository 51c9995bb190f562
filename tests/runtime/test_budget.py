"""Budgets: how they are written, and what they say of measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.budget import BYTES, FIGURES, TIMES, UNMEASURED, Limit, check, enforce, parse_budget
from edgeferry_runtime.errors import GateError, UnknownNameError, UsageError
from edgeferry_runtime.measurement.statistics import summarize
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tensors import Array

ACCURACY = {"metric": "top1", "output": "y", "samples": 9, "source": 91.0, "artifact": 90.5, "drop": 0.5}


@pytest.fixture(scope="module")
def measured() -> Any:
    """Make a profile of samples, in milliseconds, and anything else that is to be different."""
    import numpy as np

    def make(samples: tuple[float, ...] | Array = (1.0, 2.0, 3.0), **changes: Any) -> Profile:
        values = np.array(samples, np.float64)
        artifact = {"name": "kws", "bundle": "a" * 64, "sha256": "b" * 64, "size_bytes": 4_000_000}
        profile = Profile(
            artifact=artifact | {"accuracy": ACCURACY},
            engine={"name": "onnxruntime", "version": "1", "delegate": "cpu"},
            device="pi",
            machine={},
            init_ms=7.0,
            first_inference_ms=5.0,
            num_runs=len(values),
            warmup_runs=1,
            **summarize(values),
            samples_ms=tuple(values.tolist()),
            rss_bytes=50 * 2**20,
            peak_rss_bytes=60 * 2**20,
        )
        return replace(profile, **changes)

    return make


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("p50=15ms", "p50", 15),
        ("median=15ms", "p50", 15),
        ("p99=1.5s", "p99", 1500),
        ("mean=250us", "mean", 0.25),
        (" p5 = 1e3 us ", "p5", 1),
        ("size=4MB", "size", 4e6),
        ("peak=64MiB", "peak", 64 * 2**20),
        ("rss=512kB", "rss", 512e3),
        ("drop=0.5", "drop", 0.5),
        ("drop=0.5%", "drop", 0.5),
        ("drop=0.5points", "drop", 0.5),
        ("accuracy=90", "accuracy", 90),
    ],
)
def test_what_a_limit_means(text: str, key: str, value: float) -> None:
    (limit,) = parse_budget(text)
    assert (limit.key, limit.value) == (key, pytest.approx(value))


def test_limits_keep_their_order() -> None:
    assert [limit.key for limit in parse_budget("size=4MB,p50=15ms,drop=0.5")] == ["size", "p50", "drop"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("p51=15ms", UnknownNameError, "unknown name 'p51'; did you mean 'p5"),
        ("medain=1ms", UnknownNameError, "did you mean 'median'"),
        ("p50=15m", UnknownNameError, "valid are us, ms, s"),
        ("p50=15MB", UnknownNameError, "--budget p50: unknown name 'MB'"),
        ("size=4ms", UnknownNameError, "valid are B, kB, MB, GB, KiB, MiB, GiB"),
        ("drop=1ms", UnknownNameError, "valid are points, %"),
        ("p50=15", UsageError, "--budget p50: '15' has no unit; give one of us, ms, s"),
        ("size=4", UsageError, "has no unit"),
        ("p50", UsageError, "'p50' is no limit"),
        ("p50=ms", UsageError, "is no limit"),
        ("p50=-1ms", UsageError, "is no limit"),
        ("p50=nanms", UsageError, "is no limit"),
        ("p50=infms", UsageError, "is no limit"),
        ("p50=1ms ms", UnknownNameError, "unknown name 'ms ms'"),
        ("p50=٣ms", UsageError, "is no limit"),
        ("p50=1e999ms", UsageError, "is too large"),
        ("", UsageError, "'' is no limit"),
        ("p50=1ms,", UsageError, "'' is no limit"),
        ("p50=1ms,median=2ms", UsageError, "limits p50 twice"),
    ],
)
def test_what_is_no_budget(text: str, error: type[UsageError], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert type(caught.value) is error
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "passed", "said"),
    [
        ("p50=2ms", True, "pi: kws p50 2 ms, at most 2 ms"),
        ("p50=1.9ms", False, "p50 2 ms, at most 1.9 ms"),
        ("max=3ms", True, "max 3 ms"),
        ("first=4ms", False, "first 5 ms, at most 4 ms"),
        ("init=7ms", True, "init 7 ms"),
        ("mean=1s", True, "mean 0.002 s, at most 1 s"),
        ("size=4MB", True, "size 4 MB, at most 4 MB"),
        ("size=3.9MiB", True, "size 3.815 MiB"),
        ("rss=49MiB", False, "rss 50 MiB, at most 49 MiB"),
        ("peak=60MiB", True, "peak 60 MiB"),
        ("drop=0.5", True, "drop 0.5 points, at most 0.5 points"),
        ("drop=0.4", False, "drop 0.5 points, at most 0.4 points"),
        ("accuracy=90.5", True, "accuracy 90.5 %, at least 90.5 %"),
        ("accuracy=91", False, "accuracy 90.5 %, at least 91 %"),
    ],
)
def test_a_limit_holds_up_to_itself(measured: Any, budget: str, passed: bool, said: str) -> None:
    (verdict,) = check([measured()], parse_budget(budget))
    assert verdict.passed is passed
    assert said in str(verdict)


@given(
    st.sampled_from([*TIMES, *BYTES]),
    st.floats(1e-3, 1e12),
    st.floats(1e-3, 1e12) | st.sampled_from([-1e-12, 1e-12, 0.0]),
)
def test_what_is_written_tells_on_which_side_it_lies(unit: str, limit: float, value: float) -> None:
    key = "p50" if unit in TIMES else "size"
    value = limit * (1 + value) if abs(value) <= 1e-12 else value
    held = Limit(key, limit, unit)
    if value != limit:
        assert held.write(value) != held.write(limit) or math.isclose(value, limit, rel_tol=1e-15)


def test_an_interval_on_both_sides_is_said_and_the_median_decides(measured: Any) -> None:
    samples = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
    for limit, passed in (("1.45ms", True), ("1.35ms", False)):
        (verdict,) = check([measured(samples)], parse_budget(f"p50={limit}"))
        assert verdict.passed is passed
        assert verdict.notes[0].startswith("not sure: the 95 % interval is 1.")
    (verdict,) = check([measured(samples)], parse_budget("p50=9ms"))
    assert verdict.notes == ()


def test_what_speaks_against_a_profile_is_named_beside_its_times(measured: Any) -> None:
    marks = ({"kind": "busy", "reason": "load 9"}, {"kind": "busy", "reason": "load 8"})
    timed, sized = check([measured(marks=marks)], parse_budget("p95=9ms,size=4MB"))
    assert (timed.passed, timed.notes) == (True, ("do not trust it: busy",))
    assert str(timed).endswith("at most 9 ms (do not trust it: busy)")
    assert sized.notes == ()


@pytest.mark.parametrize("accuracy", [None, {}, [], {"drop": "0"}, {"drop": True}])
def test_an_accuracy_that_nobody_told_never_passes(measured: Any, accuracy: object) -> None:
    profile = measured()
    profile = replace(profile, artifact={**profile.artifact, "accuracy": accuracy})
    for verdict in check([profile], parse_budget("drop=100,accuracy=0")):
        assert (verdict.passed, verdict.value) == (False, None)
        assert verdict.notes[0].startswith(UNMEASURED)
        assert "is unknown" in str(verdict) and "ferry convert --evaluate" in str(verdict)
        with pytest.raises(GateError, match="; leave out what is unknown"):
            enforce([verdict])


def test_an_error_that_grew_from_nothing_passes_no_limit(measured: Any) -> None:
    profile = measured()
    mse = {**ACCURACY, "metric": "mse", "drop": None}
    verdicts = check(
        [replace(profile, artifact={**profile.artifact, "accuracy": mse})], parse_budget("drop=9,accuracy=0")
    )
    assert [verdict.passed for verdict in verdicts] == [False, False]
    assert verdicts[0].value == math.inf and verdicts[0].to_dict()["value"] is None
    assert verdicts[1].value is None


def test_what_a_device_does_not_tell_never_passes(measured: Any) -> None:
    (verdict,) = check([measured(peak_rss_bytes=None)], parse_budget("peak=1GB"))
    assert not verdict.passed
    assert str(verdict) == "pi: kws peak is unknown, at most 1 GB (the device does not tell it)"


def test_a_nan_never_passes(measured: Any) -> None:
    verdicts = check(
        [measured(mean_ms=math.nan, artifact={"accuracy": {"artifact": math.nan}})], parse_budget("mean=9s,accuracy=0")
    )
    assert [verdict.passed for verdict in verdicts] == [False, False]


def test_processes_of_one_side_are_judged_together(measured: Any) -> None:
    rounds = [measured((x, x, x), peak_rss_bytes=int(x)) for x in (1.0, 2.0, 9.0)]
    other = measured((5.0, 5.0), device="zero")
    verdicts = check([*rounds[:2], other, rounds[2]], parse_budget("p50=2ms,max=8ms,peak=9B"))
    assert [(v.device, v.limit.key, v.value) for v in verdicts] == [
        ("pi", "p50", 2.0),
        ("pi", "max", 9.0),
        ("pi", "peak", 9.0),
        ("zero", "p50", 5.0),
        ("zero", "max", 5.0),
        ("zero", "peak", 60 * 2**20),
    ]
    assert [v.passed for v in verdicts] == [True, False, True, False, True, False]


def test_bundles_of_one_name_and_delegates_stand_apart(measured: Any) -> None:
    first = measured()
    second = replace(first, artifact={**first.artifact, "bundle": "c" * 64})
    third = replace(first, engine={**first.engine, "delegate": "gpu"})
    found = check([first, second, third], parse_budget("p50=1s"))
    assert [v.artifact for v in found] == [f"kws {'a' * 12}", f"kws {'c' * 12}", f"kws {'a' * 12}"]
    assert [v.artifact for v in check([first, third], parse_budget("p50=1s"))] == ["kws", "kws"]


def test_the_gate_names_what_failed_and_how_many_more(measured: Any) -> None:
    verdicts = check([measured()], parse_budget("p50=1ms,p95=1ms,mean=1ms,max=1ms,size=5MB"))
    with pytest.raises(GateError) as caught:
        enforce(verdicts)
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert said.startswith("--budget: 4 of 5 limits failed: pi: kws p50 2 ms, at most 1 ms")
    assert "and 1 more; make it faster or smaller, or loosen the budget" in said
    enforce(check([measured()], parse_budget("p50=1s")))
    enforce([])


def test_every_key_has_json(measured: Any) -> None:
    for key, figure in FIGURES.items():
        unit = figure.default or next(iter(figure.units))
        (verdict,) = check([measured()], [Limit(key, 1.0, unit)])
        told = verdict.to_dict()
        assert (told["key"], told["limit"], told["device"]) == (key, 1.0, "pi")
        assert isinstance(told["value"], float)


FIGURES_ALONE: dict[str, Any] = {"samples_ms": (), "median_ms_ci95": None, "p90_ms": None, "p99_ms": None}


def test_figures_without_single_runs_are_judged_as_far_as_they_go(measured: Any) -> None:
    """A program that is not ours tells a median and no interval; several of them have no percentile together."""
    alone = measured((1.0, 2.0, 3.0), **FIGURES_ALONE)
    found = {v.limit.key: v for v in check([alone], parse_budget("p50=2ms,p95=3ms,p99=9ms"))}
    assert [(key, v.passed) for key, v in found.items()] == [("p50", True), ("p95", True), ("p99", False)]
    assert found["p50"].notes == ("not sure: no 95 % interval is known",)
    assert found["p99"].value is None
    several = check([alone, measured((3.0, 4.0, 5.0), **FIGURES_ALONE)], parse_budget("p50=3ms,p95=9ms"))
    assert [v.value for v in several] == [3.0, None]
