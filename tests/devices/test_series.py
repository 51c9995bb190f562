"""What is measured together: the order, what is refused, and which profiles are of one side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices.series import Attempt, Plan, Series
from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import BundleError, DeviceError, UsageError
from edgeferry_runtime.profile import Profile

Make = Callable[..., Bundle]
QUICK = BenchOptions(num_runs=2, warmup_runs=1, min_secs=0, max_warmup_secs=0)


def plan(*bundles: Bundle, rounds: int = 2) -> Plan:
    return Plan(bundles, QUICK, rounds)


def test_every_second_round_goes_backwards(make_bundle: Make) -> None:
    turns = plan(make_bundle("a"), make_bundle("b"), make_bundle("c"), rounds=3).turns()
    assert "".join(f"{turn}{bundle.manifest.name}" for turn, bundle in turns) == "1a1b1c2c2b2a3a3b3c"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(1, 8))
def test_what_drifts_evenly_weighs_on_all_alike(bundle: Bundle, half: int) -> None:
    turns = list(Plan((bundle, replace(bundle)), QUICK, 2 * half).turns())
    places = [[i for i, (_, b) in enumerate(turns) if b is one] for one in (turns[0][1], turns[1][1])]
    assert sum(places[0]) == sum(places[1])


def test_two_runs_have_different_names(bundle: Bundle) -> None:
    assert plan(bundle).run != plan(bundle).run


def test_what_cannot_be_measured_is_refused(make_bundle: Make) -> None:
    bundle = make_bundle()
    with pytest.raises(UsageError, match="has no bundle to measure"):
        plan().check()
    with pytest.raises(UsageError, match="bundle tiny: is given twice"):
        plan(bundle, make_bundle("other"), bundle).check()
    versions = [make_bundle(padding=size) for size in (1, 2, 3)]
    plan(*versions[:2]).check()
    with pytest.raises(UsageError, match="bundle tiny: is given 3 times, and a device keeps 2 of one name"):
        plan(*versions).check()
    (bundle.path / "labels.txt").write_text("other")
    with pytest.raises(BundleError, match=r"labels\.txt was changed"):
        plan(bundle).check()


@pytest.fixture
def measured(make_bundle: Make) -> tuple[Plan, dict[str, Profile]]:
    """Two bundles, and a profile of each."""
    bundles = [make_bundle(name) for name in "ab"]
    return plan(*bundles), {b.manifest.name: bench(b.path, QUICK, device="pi") for b in bundles}


def test_rounds_of_one_bundle_on_one_device_and_delegate_are_one_side(measured: tuple) -> None:
    made, profiles = measured
    gpu = replace(profiles["b"], engine={**profiles["b"].engine, "delegate": "gpu"})
    shelf = {name: replace(p, device="shelf") for name, p in profiles.items()}
    done = (profiles["b"], profiles["a"], profiles["a"], shelf["b"], gpu, profiles["b"])
    series = Series(made, tuple(Attempt(p.device, profile=p) for p in done))
    told = [(s[0].device, s[0].artifact["name"], s[0].engine["delegate"], len(s)) for s in series.sides()]
    assert told == [("pi", "a", "cpu", 2), ("pi", "b", "cpu", 2), ("pi", "b", "gpu", 1), ("shelf", "b", "cpu", 1)]
    assert [series.reference(side) for side in series.sides()] == [None, series.sides()[0], series.sides()[0], None]


def test_check_raises_what_failed_first(measured: tuple) -> None:
    made, profiles = measured
    good = Attempt("pi", made.bundles[0], 1, profiles["a"])
    assert Series(made, (good,)).check().profiles == (profiles["a"],)
    errors = [DeviceError("pi", reason, "wait") for reason in ("first", "second")]
    series = Series(made, (good, *(Attempt("pi", error=error) for error in errors)))
    assert series.errors == tuple(errors)
    with pytest.raises(DeviceError, match="first"):
        series.check()
    assert series.attempts[1].to_dict() == {
        **{"device": "pi", "bundle": None, "round": None, "profile": None, "path": None},
        "error": {"reason": "first", "fix": "wait", "exit_code": 4},
    }
