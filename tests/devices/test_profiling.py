"""Bundles measured in turn on every kind of device: all of it kept, and what fails alone."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import history, inventory
from edgeferry_devices.device import open_device
from edgeferry_devices.profiling import profile, visit
from edgeferry_devices.series import Attempt, Plan, Series
from edgeferry_runtime.benchmark import BenchOptions, compare_profiles
from edgeferry_runtime.bundle import Bundle, write_bundle
from edgeferry_runtime.errors import (
    DeviceBusyError,
    DeviceError,
    MissingExtraError,
    UnknownNameError,
    UnreachableError,
    VerificationError,
)
from edgeferry_runtime.store import Store

Make = Callable[..., Bundle]
QUICK = BenchOptions(num_runs=5, warmup_runs=1, min_secs=0, max_warmup_secs=0)


def order(series: Series) -> list[str]:
    """Which bundle was measured in which round; with an exclamation mark where that failed."""
    names = [a.bundle.manifest.name if a.bundle else "-" for a in series.attempts]
    return [f"{a.round}{name}{'!' * bool(a.error)}" for a, name in zip(series.attempts, names, strict=True)]


def test_bundles_are_measured_in_turn_and_kept(place: Any, make_bundle: Make) -> None:
    said: list[str] = []
    bundles = [make_bundle(name) for name in "ab"]
    series = profile(bundles, [place.name], QUICK, say=said.append).check()
    assert order(series) == ["1a", "1b", "2b", "2a"]
    measuring = [line for line in said if "measuring" in line]
    assert measuring == [
        f"{place.name}: round {turn} of 2: measuring {name}" for turn, name in ("1a", "1b", "2b", "2a")
    ]
    kept = history.read()
    assert [(m.bundle, m.run, m.profile) for m in kept] == [
        (a.bundle.manifest.name, series.plan.run, a.profile) for a in series.attempts if a.bundle
    ]
    assert [m.path for m in kept] == [a.path for a in series.attempts]
    compare_profiles(*series.sides())


def test_one_bundle_is_measured_once(bundle: Bundle) -> None:
    assert order(profile([bundle], ["local", "local"], QUICK)) == ["1tiny"]
    assert order(profile([bundle], ["local"], QUICK, rounds=3)) == ["1tiny", "2tiny", "3tiny"]
    assert len(history.read()) == 4


def test_the_machines_state_is_in_the_profile(place: Any, bundle: Bundle) -> None:
    options = replace(QUICK, min_secs=1.3)
    (found,) = profile([bundle], [place.name], options).check().profiles
    assert "load1" in found.state_before
    assert "load1" in found.state_after
    assert found.states_during[0]["at_s"] >= 1
    assert "load1" in found.states_during[0]


def test_a_wait_on_the_device_is_told_on_the_host(place: Any, bundle: Bundle) -> None:
    said: list[str] = []
    options = replace(QUICK, max_load=0.0, max_wait_secs=0.2)
    (found,) = profile([bundle], [place.name], options, say=said.append).check().profiles
    assert [line for line in said if line.startswith(f"{place.name}: load ") and "waiting for load 0" in line]
    assert found.calming["waited_s"] >= 0.2
    assert found.marks[0]["kind"] == "busy"


def test_two_versions_of_one_bundle(place: Any, make_bundle: Make) -> None:
    old, new = make_bundle(), make_bundle(padding=100)
    series = profile([old, new], [place.name], QUICK).check()
    assert [p.artifact["bundle"] for p in series.profiles] == [old.id, new.id, new.id, old.id]
    assert (place.root / "bundles/tiny/current").resolve().name == new.id


def test_a_bundle_that_fails_does_not_stop_the_others(place: Any, make_bundle: Make) -> None:
    series = profile([make_bundle("a"), make_bundle("bad", wrong=0.5), make_bundle("c")], [place.name], QUICK)
    assert order(series) == ["0bad!", "1a", "1c", "2c", "2a"]
    assert isinstance(series.errors[0], VerificationError)


def test_a_format_without_an_engine_does_not_stop_the_others(
    make_bundle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ai_edge_litert", "tflite_runtime", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)
    onnx = make_bundle("lite")

    def fill(folder: Path) -> None:
        for name in onnx.manifest.files:
            shutil.copyfile(onnx.path / name, folder / name)

    lite = write_bundle(tmp_path / "lite", replace(onnx.manifest, format="tflite"), fill)
    series = profile([lite, make_bundle("a")], ["local"], QUICK)
    assert order(series) == ["0lite!", "1a", "2a"]
    assert isinstance(series.errors[0], MissingExtraError)
    alone = profile([lite], ["local"], QUICK)
    assert order(alone) == ["0-!"]


def test_a_device_that_fails_does_not_stop_the_others(bundle: Bundle) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    series = profile([bundle], ["gone", "local"], QUICK)
    assert [(a.device, bool(a.profile)) for a in series.attempts] == [("gone", False), ("local", True)]
    assert isinstance(series.errors[0], UnreachableError)
    assert [outcome.kind for outcome in series.outcomes] == ["unreachable", ""]
    with pytest.raises(UnknownNameError):
        profile([bundle], ["gone", "nobody"], QUICK)


def test_an_agent_that_dies_in_the_middle_loses_nothing_that_was_measured(place: Any, make_bundle: Make) -> None:
    def say(text: str) -> None:
        if "round 2 of 2: measuring b" in text:
            kill_agent(str(place.root))

    plan = Plan(tuple(make_bundle(name) for name in "ab"), QUICK, 2)
    attempts: list[Attempt] = []
    with open_device(place.name) as device, pytest.raises(DeviceError) as caught:
        visit(plan, device, attempts, say)
    assert order(Series(plan, tuple(attempts))) == ["1a", "1b"]
    assert caught.value.exit_code == 4
    assert len(history.read()) == 2
    Store.open(place.root).lock("next", 30).close()


def kill_agent(root: str) -> None:
    """Kill the agent that serves a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if root in words and any("edgeferry_runtime.agent" in word for word in words):
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_a_busy_device_is_asked_again_in_the_next_turn(place: Any, make_bundle: Make) -> None:
    bundles = [make_bundle(name) for name in "ab"]
    held: list[Any] = []

    def say(text: str) -> None:
        if "round 1 of 2: measuring a" in text:
            held.append(Store.open(place.root).lock("somebody", 1))
        elif held:
            held.pop().close()

    plan = Plan(tuple(bundles), QUICK, 2)
    attempts: list[Attempt] = []
    with open_device(place.name) as device:
        visit(plan, device, attempts, say)
    series = Series(plan, tuple(attempts))
    assert order(series) == ["1a!", "1b", "2b", "2a"]
    assert isinstance(series.errors[0], DeviceBusyError)


def test_a_device_that_is_held_by_somebody_else(make_bundle: Make, home: Path) -> None:
    bundle = make_bundle()
    with Store.open(home / ".local/share/edgeferry").lock("somebody", 1):
        series = profile([bundle], ["local"], QUICK)
    assert order(series) == ["0tiny!"]
    assert "in use by somebody" in str(series.errors[0])


def test_a_history_that_refuses_loses_no_figures(bundle: Bundle) -> None:
    history.folder().parent.mkdir(parents=True)
    history.folder().write_text("in the way")
    series = profile([bundle], ["local"], QUICK)
    (attempt,) = series.attempts
    assert attempt.profile
    assert attempt.path is None
    assert "could not be kept" in str(attempt.error)
    assert series.errors[0].exit_code == 1


def test_what_is_kept_is_private(bundle: Bundle) -> None:
    (attempt,) = profile([bundle], ["local"], QUICK).attempts
    assert attempt.path
    assert stat.S_IMODE(attempt.path.stat().st_mode) == 0o600
