"""``--budget`` and ``--junit`` as options, and as what a run that was cut remembers of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeferry_runtime.budget import parse_budget
from edgeferry_runtime.commands.budget_options import Gates, verdict_lines
from edgeferry_runtime.errors import UnreachableError, UsageError


@pytest.mark.parametrize("junit", [None, Path("/tmp/r e.xml")])
@pytest.mark.parametrize("budget", ["", "p50=15ms", "median = 1.5 s, size=4MiB,drop=0.5,accuracy=90%"])
def test_gates_survive_json(budget: str, junit: Path | None) -> None:
    gates = Gates(parse_budget(budget) if budget else (), junit)
    assert Gates.from_dict(json.loads(json.dumps(gates.to_dict()))) == gates


def test_a_file_is_remembered_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Gates(parse_budget("p50=1s"), Path("r.xml")).to_dict() == {
        **{"budget": "p50=1s", "junit": str(tmp_path / "r.xml")}
    }


def test_what_no_run_remembers_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown name 'p51'"):
        Gates.from_dict({"budget": "p51=1ms"})
    assert Gates.from_dict({}) == Gates()


def test_a_file_without_a_budget_is_refused() -> None:
    options = {"budget": (), "junit": Path("r.xml"), "other": 1}
    with pytest.raises(UsageError, match="--junit: reports what became of a budget, and there is none"):
        Gates.take(options)
    options = {"budget": parse_budget("p50=1s"), "junit": None, "other": 1}
    assert Gates.take(options).limits and options == {"other": 1}


def test_without_a_budget_nothing_is_shown_written_or_wrong(tmp_path: Path) -> None:
    gates = Gates()
    suites = [gates.suite("pi", errors=[("kws", UnreachableError("pi", "is gone", "x"))])]
    gates.report(suites)
    assert (verdict_lines(suites), gates.failures(suites), list(tmp_path.iterdir())) == ([], [], [])
