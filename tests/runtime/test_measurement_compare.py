"""Comparing: what is the same is called so, what differs is found with its size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeferry_runtime.benchmark import BenchOptions, bench
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.measurement.compare import compare, compare_profiles, has_samples
from edgeferry_runtime.profile import Profile

QUICK = BenchOptions(num_runs=200, warmup_runs=20, min_secs=0, max_warmup_secs=0)


@pytest.fixture(scope="module")
def measured(artifacts) -> Profile:
    profile = bench(artifacts["pair.onnx"], BenchOptions(num_runs=2, warmup_runs=1, min_secs=0, max_warmup_secs=0))
    return replace(profile, warnings=())


def taking(profile: Profile, median: float, seed: int = 0) -> Profile:
    """The same profile with samples of another median."""
    samples = median * np.random.default_rng(seed).lognormal(0, 0.05, 301)
    return replace(profile, samples_ms=tuple(samples.tolist()), num_runs=301)


def test_a_slower_one_is_found(measured: Profile) -> None:
    found = compare_profiles(
        [taking(measured, 1, i) for i in range(6)], [taking(measured, 1.2, i) for i in range(6, 12)]
    )
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1.2, abs=0.02)
    assert found.ratio_ci95[0] < found.ratio < found.ratio_ci95[1]
    assert (found.a.processes, found.b.processes, found.a.runs) == (6, 6, 6 * 301)
    assert found.exceeds(0.05)
    assert not found.exceeds(0.5)
    assert found.warnings == found.differs == ()


def test_a_faster_one_exceeds_nothing(measured: Profile) -> None:
    found = compare_profiles([taking(measured, 1)], [taking(measured, 0.5, 1)])
    assert found.verdict == "faster"
    assert not found.exceeds(0)


def test_the_same_is_no_difference(measured: Profile) -> None:
    found = compare_profiles([taking(measured, 1)], [taking(measured, 1, 3)])
    assert found.verdict == "no difference"
    assert not found.exceeds(0)
    assert "one process" in found.warnings[0]


def test_what_differs_between_machines_is_named(measured: Profile) -> None:
    pi = replace(
        measured,
        device="pi",
        machine={**measured.machine, "board": "Raspberry Pi 5"},
        engine={**measured.engine, "version": "0.1"},
        state_before={"governor": "powersave"},
    )
    found = compare_profiles([measured], [pi])
    assert [line.partition(":")[0] for line in found.differs] == ["board", "engine version", "governor"]
    assert found.differs[0].endswith("and Raspberry Pi 5")
    assert found.b.device == "pi"


def test_each_kind_of_warning_is_told_once(measured: Profile) -> None:
    noisy = replace(measured, warnings=("busy: load 3", "unsteady: a", "unsteady: b"))
    found = compare_profiles([noisy, measured, noisy], [measured] * 3)
    assert found.warnings == ("A in 2 of 3 processes: busy: load 3", "A in 2 of 3 processes: unsteady: a")


@pytest.mark.slow
def test_two_artifacts_are_measured_in_turn(artifacts) -> None:
    said: list[str] = []
    found = compare(artifacts["dense.tflite"], artifacts["pair.onnx"], QUICK, blocks=1, say=said.append)
    assert [line.split()[4] for line in said] == ["A", "B", "B", "A"]
    assert found.a.name == "dense"
    assert found.a.processes == found.b.processes == 2
    assert found.a.runs == 400
    assert any(line.startswith("engine name: ai_edge_litert and onnxruntime") for line in found.differs)
    data = found.to_dict()
    assert data["verdict"] == found.verdict
    assert data["a"]["name"] == "dense"


def test_figures_without_single_runs_are_not_compared(measured: Profile) -> None:
    """Of a program that is not ours only figures are known, from which nothing can be said to be sure."""
    alone = replace(measured, samples_ms=(), median_ms_ci95=None)
    assert has_samples([measured])
    assert not has_samples([measured, alone])
    for a, b in ((measured, alone), (alone, measured)):
        with pytest.raises(DataError, match=r"holds no single runs.*compare what our runtime measured"):
            compare_profiles([a], [b])
