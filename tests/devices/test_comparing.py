"""``ferry compare`` over the history."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edgeferry_devices import history, inventory
from edgeferry_devices.commands.history_table import FORMULA, _cell
from edgeferry_devices.comparing import Wanted, recall, rows
from edgeferry_runtime.errors import MissingFileError, UsageError

Remember = Callable[..., Path]
Ferry = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ferry(ferry: Ferry) -> Ferry:
    """Run ferry; return its exit code, stdout and stderr."""
    return lambda *argv: ferry("compare", *argv)


@pytest.fixture
def measured(remember: Remember) -> None:
    """Two bundles on two devices: kws became slower on one of them, on another engine."""
    engine = {"name": "onnxruntime", "version": "1.21", "delegate": "cpu"}
    for device in ("pi4", "pi@host:2222"):
        for _ in range(3):
            remember(device, 10.0, days=30, run=f"first {device}")
            remember(device, 10.0, days=3, run=f"second {device}")
        remember(device, 40.0, days=3, run=f"second {device}", name="vww")
    for _ in range(3):
        remember("pi4", 12.0, days=1, run="third", bundle="b" * 64, engine=engine, warnings=("busy: load 4",))


@pytest.mark.usefixtures("measured")
def test_the_newest_run_of_each_stands_against_the_one_before() -> None:
    found = {(row.side.key.device, row.side.key.bundle): row for row in rows(Wanted())}
    assert len(found) == 4
    slower = found["pi4", "kws"]
    assert slower.change is not None and slower.before is not None
    assert (slower.change.verdict, slower.before.run) == ("slower", "second pi4")
    assert slower.change.ratio == pytest.approx(1.2, rel=0.02)
    assert slower.differs == ("engine version: 1.20 and 1.21",)
    same = found["pi@host:2222", "kws"].change
    assert same is not None and same.verdict == "no difference"
    assert found["pi4", "vww"].change is None


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(devices=["pi4"]), ["third", "second pi4"]),
        (Wanted(bundles=["kws"]), ["third", "second pi@host:2222"]),
        (Wanted(bundles=["bbbbbbbb"]), ["third"]),
        (Wanted(since="2d"), ["third"]),
        (Wanted(devices=["pi4"], until="2d"), ["second pi4", "second pi4"]),
        (Wanted(devices=["pi4"], bundles=["kws"], every=True), ["first pi4", "second pi4", "third"]),
        (Wanted(devices=["pi4"], bundles=["kws"], every=True, since="4d", until="2d"), ["second pi4"]),
    ],
)
def test_what_is_wanted(wanted: Wanted, expected: list[str]) -> None:
    assert [row.side.run for row in rows(wanted)] == expected


@pytest.mark.usefixtures("measured")
def test_the_run_before_may_be_older_than_what_is_wanted() -> None:
    (row,) = rows(Wanted(since="2d"))
    assert row.before is not None and row.before.run == "second pi4"


@pytest.mark.usefixtures("measured")
def test_a_device_of_which_nothing_is_known_is_named() -> None:
    said: list[str] = []
    assert len(rows(Wanted(devices=["pi4", "pi5"]), said.append)) == 2
    assert said == ["pi5: nothing was measured"]
    with pytest.raises(MissingFileError, match="nothing measured of cat on pi5 since 2d; measure it: ferry profile"):
        rows(Wanted(devices=["pi5"], bundles=["cat"], since="2d"))


def test_a_damaged_profile_is_left_out_and_said(remember: Remember) -> None:
    remember("pi4", 10.0, days=2)
    remember("pi4", 10.0).write_bytes(b"\x1f\x8b broken")
    said: list[str] = []
    assert len(rows(Wanted(), said.append)) == 1
    assert "is left out" in said[0]


@pytest.mark.usefixtures("measured")
def test_a_run_is_recalled_by_its_names_and_date() -> None:
    said: list[str] = []
    assert recall("pi4:kws", said.append).run == "third"
    assert said[0].startswith("pi4:kws is kws bbbbbbbbbbbb on pi4, cpu, 20")
    assert said[0].endswith(", 3 processes")
    assert recall("pi4:kws@2d").run == "second pi4"
    day = (datetime.now(timezone.utc) - timedelta(days=3)).astimezone()
    assert recall(f"pi4:kws@{day:%Y-%m-%d}").run == "second pi4"
    assert recall(f"pi@host:2222:kws@{day:%Y-%m-%dT%H:%M}").run == "second pi@host:2222"
    assert recall("pi4:aaaaaaaa").bundle_id == "a" * 64


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("pi5:kws", MissingFileError, "nothing was measured of kws on pi5"),
        ("pi4:cat@2d", MissingFileError, "nothing was measured of cat on pi4 until 2d"),
        ("pi4:kws@90d", MissingFileError, "until 90d"),
        ("pi4:kws@soon", UsageError, "'soon' is no date"),
        ("pi4:", UsageError, "is neither a path nor DEVICE:BUNDLE"),
        (":kws", UsageError, "is neither a path nor DEVICE:BUNDLE"),
        ("../../pi4:kws", MissingFileError, "nothing was measured"),
    ],
)
def test_what_cannot_be_recalled(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        recall(text)


@pytest.mark.usefixtures("measured")
def test_the_table(ferry: Ferry) -> None:
    code, out, err = ferry()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["device", "bundle", "delegate", "date", "release"]
    assert "bbbbbbbb  onnxruntime 1.21" in lines[1]
    assert "90.8% top1  61.2" in lines[1]
    assert lines[1].endswith("slower, differs  busy")
    assert lines[2].split()[:2] == ["pi4", "vww"] and lines[2].endswith("first")
    assert lines[-1].startswith("differs  pi4, kws, cpu, 20")
    assert lines[-1].endswith(": engine version: 1.20 and 1.21")
    assert len(lines) == 7


@pytest.mark.usefixtures("measured")
def test_programs_get_json_and_csv_of_the_same_rows(ferry: Ferry) -> None:
    data = json.loads(ferry("--json", "--all")[1])
    assert data["schema"] == 1
    code, out, _ = ferry("--csv", "--all")
    table = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(table)) == (0, len(data["measurements"])) == (0, 7)
    for told, row in zip(data["measurements"], table, strict=True):
        assert list(told) == list(row)
        assert float(row["median_ms"]) == told["median_ms"]
        assert row["change"] == (told["change"] or "")
    last = data["measurements"][2]
    assert (last["run"], last["processes"], last["marks"], last["change"]) == ("third", 3, ["busy"], "slower")
    assert (last["accuracy"], last["accuracy_drop"], last["size_bytes"]) == (90.8, 0.4, 61440)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", '=HYPERLINK("x","y")'])
def test_no_name_becomes_a_formula(remember: Remember, ferry: Ferry, name: str) -> None:
    remember(name, 1.0, engine={"name": name, "version": "1", "delegate": "cpu"})
    (row,) = csv.DictReader(io.StringIO(ferry("--csv")[1], newline=""))
    assert row["device"] == row["engine"] == f"'{name}"
    assert (_cell(-1.5), _cell(None), _cell("\t=1\r\n")) == (-1.5, None, "?=1??")
    assert not str(_cell(["=x", "y"])).startswith(FORMULA)


def test_what_devices_say_does_not_reach_the_terminal_as_it_is(remember: Remember, ferry: Ferry) -> None:
    remember("pi", 1.0, days=2)
    remember("pi", 1.0, engine={"name": "e\x1b[2J", "version": "1\n2", "delegate": "cpu"})
    out = ferry()[1]
    assert "\x1b" not in out
    assert "e?[2J 1?2" in out
    assert len(out.splitlines()) == 4


@pytest.mark.usefixtures("measured")
def test_changes_can_be_a_gate(ferry: Ferry) -> None:
    code, out, err = ferry("--max-slowdown", "5%")
    assert code == 3
    assert "device" in out
    assert err.startswith("ferry: error: --max-slowdown: kws on pi4 takes 1.")
    assert "times as long as in the run before, and 1.05 is the limit" in err
    assert ferry("--max-slowdown", "50%")[0] == 0


@pytest.mark.usefixtures("measured")
def test_two_runs_stand_side_by_side(ferry: Ferry) -> None:
    code, out, err = ferry("pi4:kws@2d", "pi4:kws", "--max-slowdown", "5")
    assert code == 3
    assert "B is slower: B takes 1." in out
    assert "differs  engine version: 1.20 and 1.21" in out
    assert err.splitlines()[:2] == [line for line in err.splitlines() if " is kws " in line]
    assert "times as long as kws, and 1.05 is the limit" in err
    data = json.loads(ferry("pi4:vww", "pi@host:2222:vww", "--json")[1])
    assert (data["a"]["device"], data["b"]["device"]) == ("pi4", "pi@host:2222")


@pytest.mark.usefixtures("measured")
def test_a_path_that_exists_wins(ferry: Ferry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = history.read(history.Query(devices=("pi4",)))[0].profile
    Path("pi4:kws").write_text(json.dumps(profile.to_dict()))
    code, out, err = ferry("pi4:kws", "pi4:vww")
    assert (code, " is kws " in err, " is vww aaaaaaaaaaaa on pi4" in err) == (0, False, True)
    assert "A  kws on pi4" in out


@pytest.mark.usefixtures("measured")
def test_a_group_is_expanded_and_all_is_everything(ferry: Ferry) -> None:
    inventory.add(inventory.Entry("pi4", "pi@192.0.2.1", tags=("fast",)))
    assert len(json.loads(ferry("--on", "@fast", "--json")[1])["measurements"]) == 2
    assert len(json.loads(ferry("--on", "all", "--on", "pi4", "--json")[1])["measurements"]) == 4
    code, _, err = ferry("--on", "@slow")
    assert code == 2 and "slow" in err


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pi4:kws"], 2, "was given pi4:kws alone; give two, or none"),
        (["--num-runs", "3"], 2, "--num-runs: is for comparing A and B, and neither is given"),
        (["--seed", "3"], 2, "--seed: is for comparing"),
        (["pi4:kws", "pi4:vww", "--since", "7d"], 2, "--since: is of the history, and not of A and B"),
        (["pi4:kws", "pi4:vww", "--csv"], 2, "--csv: is of the history"),
        (["pi4:kws", "pi4:vww", "--all"], 2, "--all: is of the history"),
        (["--csv", "--json"], 2, "--csv: does not go together with --json"),
        (["--since", "soon"], 2, "--since: 'soon' is no date"),
        (["--until", "2026-02-30"], 2, "--until: '2026-02-30' is no date"),
        (["--on", "pi9"], 1, "nothing measured on pi9"),
        (["--on", ""], 1, "nothing measured on "),
        (["--bundle", "../x"], 1, "nothing measured of ../x"),
        (["pi4:kws", "nowhere.onnx"], 2, "was given a run and an artifact; give two of one kind"),
        (["pi4:kws", "pi9:kws"], 1, "pi9:kws: nothing was measured of kws on pi9"),
    ],
)
def test_what_cannot_be_is_one_line(ferry: Ferry, arguments: list[str], code: int, said: str) -> None:
    found, out, err = ferry(*arguments)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_nothing_was_ever_measured(ferry: Ferry) -> None:
    code, out, err = ferry()
    assert (code, out) == (1, "")
    assert err == "ferry: error: history: has nothing measured; measure it: ferry profile BUNDLE --on DEVICE\n"
