"""Which profiles are processes of one side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_devices import history
from edgeferry_devices.sides import Key, Side, sides, with_samples

Remember = Callable[..., Path]


def the(found: dict[Key, list[Side]]) -> Side:
    """Return the only run of the only key."""
    ((side,),) = found.values()
    return side


def test_profiles_of_one_run_are_processes_of_one_side(remember: Remember) -> None:
    for ms in (1.0, 2.0, 9.0):
        remember("pi", ms, run="r")
    side = the(sides(history.read()))
    assert (side.key, side.run, side.bundle_id) == (Key("pi", "kws", "cpu", ""), "r", "a" * 64)
    assert (len(side.profiles), side.runs, len(side.samples)) == (3, 180, 180)
    assert side.median_ms == pytest.approx(2, rel=0.01)
    low, high = side.median[1]
    assert low == pytest.approx(1, rel=0.1) and high == pytest.approx(9, rel=0.1)
    assert side.percentile(95) == pytest.approx(9, rel=0.05)
    assert side.middle("p95_ms") == pytest.approx(2, rel=0.05)


def test_one_process_keeps_its_own_interval(remember: Remember) -> None:
    remember("pi", 1.0)
    side = the(sides(history.read()))
    assert side.median == (side.last.median_ms, side.last.median_ms_ci95)


@pytest.mark.parametrize(
    "other",
    [
        {"device": "zero"},
        {"name": "vww"},
        {"engine": {"name": "onnxruntime", "version": "1.20", "delegate": "gpu"}},
        {"artifact": {"name": "kws", "bundle": "a" * 64, "signature": "decode"}},
    ],
)
def test_what_differs_in_its_key_stands_apart(remember: Remember, other: dict[str, object]) -> None:
    remember("pi", 1.0, run="r")
    remember(**{"device": "pi", "ms": 1.0, "run": "r", **other})  # type: ignore[arg-type]
    assert len(sides(history.read())) == 2


def test_runs_and_releases_of_a_key_come_in_order(remember: Remember) -> None:
    remember("pi", 1.0, days=1, run="new", bundle="b" * 64)
    remember("pi", 1.0, days=9, run="old")
    remember("pi", 1.0, days=1.1, run="new")
    ((key, found),) = sides(history.read()).items()
    assert key.how == "cpu"
    assert [(side.run, side.bundle_id[0]) for side in found] == [("old", "a"), ("new", "a"), ("new", "b")]


def test_the_hottest_moment_and_each_kind_of_doubt_once(remember: Remember) -> None:
    remember("pi", 1.0, run="r", states_during=({"temperature_c": 70.5}, {}), warnings=("busy: 1", "busy: 2"))
    remember("pi", 1.0, run="r", warnings=("busy: 3", "short: 4"))
    side = the(sides(history.read()))
    assert side.temperature_c == 70.5
    assert (side.reasons, side.trusted) == (["busy: 1", "short: 4"], False)


def test_what_is_unknown_is_none(remember: Remember) -> None:
    bare = {"name": "kws", "bundle": None, "sha256": "e" * 64, "size_bytes": None, "accuracy": None}
    remember("pi", 1.0, artifact=bare, state_before={}, state_after={})
    side = the(sides(history.read()))
    assert (side.size_bytes, side.peak_bytes, side.temperature_c, side.accuracy) == (None, None, None, {})
    assert side.bundle_id == "e" * 64
    assert side.trusted


def test_what_holds_no_single_runs_is_left_out_with_a_word(remember: Remember) -> None:
    remember("pi", 1.0)
    for _ in range(2):
        remember("phone", 1.0, samples_ms=(), median_ms_ci95=None)
    said: list[str] = []
    assert [m.device for m in with_samples(history.read(), said.append)] == ["pi"]
    assert said == ["phone: 2 left out that hold no single runs, as a benchmark_model tells none"]
