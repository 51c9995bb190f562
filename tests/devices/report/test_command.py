"""``ferry report``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_devices import inventory
from edgeferry_devices.inventory import Entry
from edgeferry_devices.report.saving import is_report

Ferry = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ferry(ferry: Ferry) -> Ferry:
    """Run ferry report; return its exit code, stdout and stderr."""
    return lambda *argv: ferry("report", *argv)


def test_the_page_is_written_and_said(ferry: Ferry, measure, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for day in (0, 1):
        measure("pi", "a", day=day)
        measure("jetson", "b", day=day)
    code, out, err = ferry("-o", path, "--title", "Two boards & more")
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 2 measurements of 2 bundles on 2 devices, ")
    assert is_report(path)
    assert "<h1>Two boards &amp; more</h1>" in path.read_text()


def test_programs_are_told_the_same(ferry: Ferry, measure, tmp_path: Path) -> None:
    measure()
    code, out, _ = ferry("-o", tmp_path / "r.html", "--json")
    told = json.loads(out)
    assert code == 0
    assert told == {
        **{"schema": 1, "report": str(tmp_path / "r.html"), "bytes": (tmp_path / "r.html").stat().st_size},
        **{"measurements": 1, "devices": ["pi"], "bundles": ["tiny"]},
    }


def test_only_what_was_asked_for_is_shown(ferry: Ferry, measure, tmp_path: Path) -> None:
    for device in ("kitchen", "attic", "gone"):
        for bundle in ("a", "b"):
            measure(device, bundle)
    for name, tags in (("kitchen", ("indoors",)), ("attic", ("indoors",))):
        inventory.add(Entry(name, "127.0.0.1", "pi", 22, None, "~/x", tags=tags))

    def shown(*options: str) -> tuple[list[str], list[str]]:
        code, out, err = ferry("-o", tmp_path / "r.html", "--json", *options)
        assert code == 0, err
        return json.loads(out)["devices"], json.loads(out)["bundles"]

    assert shown() == (["attic", "gone", "kitchen"], ["a", "b"])
    assert shown("--on", "gone", "--bundle", "b") == (["gone"], ["b"])
    assert shown("--on", "@indoors") == (["attic", "kitchen"], ["a", "b"])
    assert shown("--on", "all", "--on", "gone")[0] == ["attic", "gone", "kitchen"]


def test_dates_bound_what_is_shown(ferry: Ferry, measure, tmp_path: Path) -> None:
    measure("old", day=0)
    measure("new", day=10)
    told = ferry("-o", tmp_path / "r.html", "--json", "--since", "2026-05-10")[1]
    assert json.loads(told)["devices"] == ["new"]
    told = ferry("-o", tmp_path / "r.html", "--json", "--until", "2026-05-10")[1]
    assert json.loads(told)["devices"] == ["old"]
    code, _, err = ferry("-o", tmp_path / "r.html", "--since", "yesterday")
    assert code == 2
    assert "--since: 'yesterday' is no date; give one such as" in err


def test_nothing_measured_is_said_and_nothing_written(ferry: Ferry, tmp_path: Path) -> None:
    code, out, err = ferry("-o", tmp_path / "r.html")
    assert (code, out) == (1, "")
    assert "has nothing measured; measure it: ferry profile BUNDLE --on DEVICE" in err
    assert not (tmp_path / "r.html").exists()


def test_what_is_no_report_is_kept(ferry: Ferry, measure, tmp_path: Path) -> None:
    measure()
    path = tmp_path / "notes.html"
    path.write_text("mine")
    code, _, err = ferry("-o", path)
    assert code == 1
    assert f"{path}: is there, and is no report that ferry made" in err
    assert path.read_text() == "mine"
    assert ferry("-o", path, "--force")[0] == 0
    assert is_report(path)


def test_where_to_write_must_be_said(ferry: Ferry) -> None:
    code, _, err = ferry()
    assert code == 2
    assert "missing option '-o'" in err
