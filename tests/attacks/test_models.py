"""Damaged model files end in a clear error, a run, or the death of a child: never in anything else.

`make attacks` does the same with other seeds and more of them, and draws the table of docs/reliability.md.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

EACH = 20
"""Mutations of each kind and model: 2,160 in all."""
MEMORY = 2 << 30
SLOWEST_CHECK_S = 0.5

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="module")
def results(zoo: Path):
    pytest.importorskip("onnx")
    from attack import attack, cases

    return attack(cases(zoo, EACH), workers=min(4, os.cpu_count() or 1))


def test_there_are_enough_of_them(results) -> None:
    by_model = Counter(result.case.model for result in results if result.case.kind)
    assert len(by_model) == 6
    assert by_model.total() >= 2000
    assert all(kinds > 10 for kinds in _kinds(results).values())


def _kinds(results) -> dict[str, int]:
    found = defaultdict(set)
    for result in results:
        if result.case.kind:
            found[result.case.model].add(result.case.kind)
    return {model: len(kinds) for model, kinds in found.items()}


def test_nothing_but_an_expected_error_comes_out(results) -> None:
    assert [result for result in results if result.outcome.kind == "BAD"] == []


def test_no_file_takes_more_than_2_gb_or_long_to_check(results) -> None:
    assert max(result.outcome.peak_bytes for result in results) < MEMORY
    assert max(result.outcome.checked_s for result in results) < SLOWEST_CHECK_S


def test_the_check_stops_nearly_all_that_would_end_an_engine(results) -> None:
    ended = [result for result in results if result.outcome.kind in ("died", "hung")]
    assert len(ended) <= len(results) // 200, ended


def test_sound_files_still_run(results) -> None:
    """Most of the engine's own test files run, and so do many files whose flipped bits are data."""
    counts = Counter((result.case.kind, result.outcome.kind) for result in results)
    assert counts["", "ran"] >= 45
    assert counts["flip", "ran"] >= EACH


def test_the_same_seed_gives_the_same_bytes(zoo: Path) -> None:
    pytest.importorskip("onnx")
    from attack import cases, content

    few = [case for case in cases(zoo, 1) if case.kind]
    assert [content(case) for case in few] == [content(case) for case in few]
    damaged = [content(case) != Path(case.path).read_bytes() for case in few]
    assert sum(damaged) > len(few) * 0.8


def test_a_user_sees_one_line(zoo: Path, ferry: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Through the command itself: an exit code of 0 or 1, one line of error, nothing left behind."""
    pytest.importorskip("onnx")
    from attack import cases, content

    for case in [case for case in cases(zoo, 1, first=7) if case.kind][::9]:
        path = tmp_path / f"model{Path(case.path).suffix}"
        path.write_bytes(content(case))
        code, said = ferry("run", path, "--input", tmp_path / "absent.npy")
        assert code == 1, (case, said)
        assert said.count("\n") == 1, (case, said)
        assert said.startswith("ferry: error: ")
        code, said = ferry("inspect", path)
        assert code == 0 or (code == 1 and said.count("\n") == 1), (case, said)
        path.unlink()
        assert list(tmp_path.iterdir()) == []


def test_what_ends_an_engine_is_an_error_to_the_user(
    ferry: Callable[..., tuple[int, str]], artifacts_that_kill: Path, tmp_path: Path
) -> None:
    code, said = ferry("run", artifacts_that_kill, "--input", tmp_path / "x.npy")
    assert code == 1
    assert said.count("\n") == 1


@pytest.fixture
def artifacts_that_kill(tmp_path: Path, zoo: Path) -> Path:
    """The upstream file that asks a kernel for absurd memory."""
    import numpy as np

    np.save(tmp_path / "x.npy", np.zeros(1, np.float32))
    return next(zoo.glob("litert-testdata/**/conv3d_huge_im2col.bin"))


def test_the_command_draws_a_table(zoo: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    import attack

    chosen = [case for case in attack.cases(zoo, 1) if case.kind in ("truncate", "")][:8]
    results = attack.attack(chosen, workers=1)
    assert attack.table(results).count("\n") >= 3
    assert attack.summary(results).startswith("8 files: ")
