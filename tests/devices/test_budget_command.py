"""``ferry profile --budget``: measurements on devices as a gate, and what CI servers read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeferry_devices import history, inventory
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.cli import main

Ferry = Callable[..., tuple[int, str, str]]
QUICK = ("--num-runs", "5", "--warmup-runs", "1", "--min-secs", "0", "--max-warmup-secs", "0")


@pytest.fixture
def ferry(ferry: Ferry) -> Ferry:
    """Run ferry profile; return its exit code, stdout and stderr."""
    return lambda *argv: ferry("profile", *argv, *QUICK)


def verdicts(out: str) -> list[list[str]]:
    """Return what stands in front of each line of a limit: the verdict, the device, the bundle and the key."""
    lines = [line.split()[:4] for line in out.splitlines() if line.startswith(("passed", "FAILED"))]
    return [[word.rstrip(":") for word in line] for line in lines]


def test_a_budget_that_is_kept(ferry: Ferry, bundle: Bundle, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    code, out, err = ferry(bundle.path, "--on", "local", "--budget", "p50=10s,size=1GB", "--junit", report)
    assert code == 0, err
    assert verdicts(out) == [["passed", "local", "tiny", "p50"], ["passed", "local", "tiny", "size"]]
    (suite,) = ElementTree.parse(report).getroot()
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors")} == {
        **{"name": "local", "tests": "2", "failures": "0", "errors": "0"}
    }
    assert {p.get("name") for p in suite.iter("property")} >= {"arch", "1.engine", "1.runs", "1.verdict"}


def test_a_budget_that_is_exceeded_ends_with_3_and_what_was_measured_is_kept(ferry: Ferry, bundle: Bundle) -> None:
    code, out, err = ferry(bundle.path, "--on", "local", "--budget", "p50=10s,size=1B,drop=0.5")
    assert code == 3
    assert [line[0] for line in verdicts(out)] == ["passed", "FAILED", "FAILED"]
    assert "drop is unknown, at most 0.5 points (the bundle tells no accuracy; make it with: ferry convert" in out
    error = err.splitlines()[-1]
    assert error.startswith("ferry: error: --budget: 2 of 3 limits failed: local: tiny size ")
    assert len(history.read()) == 1


def test_a_device_that_fails_is_an_error_and_a_limit_a_failure(
    ferry: Ferry, server: Any, root: Path, bundle: Bundle, tmp_path: Path
) -> None:
    inventory.add(server.entry(root))
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    report = tmp_path / "report.xml"
    names = [word for name in ("gone", "pi", "local") for word in ("--on", name)]
    code, out, err = ferry(bundle.path, *names, "--budget", "size=1B", "--junit", report)
    assert code == 4
    assert verdicts(out) == [["FAILED", "pi", "tiny", "size"], ["FAILED", "local", "tiny", "size"]]
    said = [line for line in err.splitlines() if line.startswith("ferry: error: ")]
    assert "gone: 127.0.0.1 port 1 refuses" in said[0]
    assert "--budget: 2 of 2 limits failed" in said[1]
    gone, pi, local = ElementTree.parse(report).getroot()
    assert [s.get("name") for s in (gone, pi, local)] == ["gone", "pi", "local"]
    assert [(s.get("failures"), s.get("errors")) for s in (gone, pi, local)] == [("0", "1"), ("1", "0"), ("1", "0")]
    error = gone.find("testcase/error")
    assert error is not None and error.get("type") == "UnreachableError"


def test_rounds_are_judged_together_and_versions_apart(ferry: Ferry, make_bundle: Callable[..., Bundle]) -> None:
    old, new = make_bundle(), make_bundle(padding=10)
    code, out, _ = ferry(old.path, new.path, "--on", "local", "--budget", "p50=10s", "--json")
    told = json.loads(out)
    assert (code, len(told["profiles"])) == (0, 4)
    assert [(v["artifact"], v["bundle"], v["passed"]) for v in told["budget"]] == [
        (f"tiny {bundle.id[:12]}", bundle.id, True) for bundle in (old, new)
    ]


def test_a_run_that_is_picked_up_is_judged_whole(
    ferry: Ferry, server: Any, root: Path, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inventory.add(inventory.Entry("pi", "127.0.0.1", port=1))
    report = tmp_path / "report.xml"
    code, out, _ = ferry(bundle.path, "--on", "local", "--on", "pi", "--budget", "size=1B", "--junit", report)
    assert (code, verdicts(out)) == (4, [["FAILED", "local", "tiny", "size"]])
    inventory.remove("pi")
    inventory.add(server.entry(root))
    with pytest.raises(SystemExit) as ended:
        main(["fleet", "resume"])
    out, err = capfd.readouterr()
    assert (ended.value.code, "local: measuring" in err) == (3, False)
    assert verdicts(out) == [["FAILED", "local", "tiny", "size"], ["FAILED", "pi", "tiny", "size"]]
    assert [suite.get("failures") for suite in ElementTree.parse(report).getroot()] == ["1", "1"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--budget", "p51=1ms"), 2, "--budget: unknown name 'p51'; did you mean 'p5"),
        (("--budget", "p50=1"), 2, "has no unit; give one of us, ms, s"),
        (("--junit", "r.xml"), 2, "--junit: reports what became of a budget"),
        (("--budget", "p50=1s", "--junit", "/proc/absent/r.xml"), 1, "no such folder"),
    ],
)
def test_bad_budgets_are_refused_before_connecting(
    ferry: Ferry, bundle: Bundle, options: tuple[str, ...], code: int, said: str
) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    found, out, err = ferry(bundle.path, "--on", "gone", *options)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert "refuses" not in err
