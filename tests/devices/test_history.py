"""The history of profiles: whole, private, in order, inside its folder, and quick to ask."""

from __future__ import annotations

import gzip
import json
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeferry_devices import history
from edgeferry_devices.history import Query, file_name, new_run, read, record
from edgeferry_runtime.profile import Profile

START = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
ODD = ["user@host:2222", "adb:R58M 12", "[::1]", "../up", "..", ".", "", "-rf", "~", "a/b", "Größe 8\n'\"", "x" * 500]
BODY = {
    **{"engine": {"name": "onnxruntime", "version": "1", "delegate": "cpu"}, "machine": {}, "init_ms": 1.0},
    **{"first_inference_ms": 2.0, "num_runs": 2, "warmup_runs": 1, "mean_ms": 1.5, "stddev_ms": 0.5, "min_ms": 1.0},
    **{"max_ms": 2.0, "p5_ms": 1.0, "median_ms": 1.5, "p90_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0},
    **{"median_ms_ci95": (1.0, 2.0), "samples_ms": (1.0, 2.0)},
}


def profile(device: str = "pi", bundle: str = "tiny", bundle_id: str = "ab" * 32) -> Profile:
    return Profile(artifact={"name": bundle, "bundle": bundle_id, "sha256": "cd" * 32}, device=device, **BODY)


def files() -> list[Path]:
    return [path for path in history.folder().rglob("*") if path.is_file()]


def test_what_was_kept_is_read_again() -> None:
    run = new_run()
    before = datetime.now(timezone.utc)
    path = record(profile(), run)
    (found,) = read()
    assert (found.device, found.bundle, found.bundle_id, found.run) == ("pi", "tiny", "ab" * 32, run)
    assert found.profile == profile()
    assert found.path == path
    assert before <= found.at <= datetime.now(timezone.utc)


def test_nothing_was_measured() -> None:
    assert read() == []
    assert read(Query(devices=("pi",))) == []
    assert not history.folder().exists()


def test_the_oldest_comes_first_whatever_the_device() -> None:
    for hours, device in ((2, "a"), (0, "b"), (1, "a"), (3, "b")):
        record(profile(device), "run", START + timedelta(hours=hours))
    assert [(m.at - START).seconds // 3600 for m in read()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), "abcd"),
        (Query(devices=("pi",)), "ab"),
        (Query(devices=("pi", "shelf")), "abcd"),
        (Query(devices=("Pi",)), ""),
        (Query(bundles=("tiny",)), "ac"),
        (Query(bundles=("Tiny",)), ""),
        (Query(bundles=("22" * 32,)), "bd"),
        (Query(bundles=("2222222222222222222",)), "bd"),
        (Query(bundles=("22222222",)), "bd"),
        (Query(bundles=("2222222",)), ""),
        (Query(bundles=("222222223",)), ""),
        (Query(since=START + timedelta(hours=1)), "bcd"),
        (Query(until=START + timedelta(hours=1)), "a"),
        (Query(("pi",), ("large",), START, START + timedelta(hours=2)), "b"),
        (Query(since=(START + timedelta(hours=3)).astimezone().replace(tzinfo=None)), "d"),
    ],
    ids=str,
)
def test_queries(query: Query, expected: str) -> None:
    bundles = (("tiny", "11" * 32), ("large", "22" * 32))
    for index, run in enumerate("abcd"):
        device, (name, bundle_id) = ("pi", "shelf")[index // 2], bundles[index % 2]
        record(profile(device, name, bundle_id), run, START + timedelta(hours=index))
    assert "".join(m.run for m in read(query)) == expected


@pytest.mark.parametrize("name", ODD)
def test_odd_names_stay_inside_and_come_back(name: str, home: Path) -> None:
    path = record(profile(name, name), "run")
    other = record(profile("pi", "tiny"), "run")
    assert path.resolve().parent.parent == history.folder().resolve()
    assert set(files()) == {path, other}
    assert [m.path for m in read(Query(devices=(name,)))] == [path]
    (found,) = read(Query(bundles=(name,)))
    assert (found.device, found.bundle) == (name, name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(st.characters(), max_size=150))
def test_any_name_is_one_plain_word_of_a_file_name(name: str) -> None:
    word = file_name(name)
    assert word.isascii()
    assert 0 < len(word) <= 120
    assert not set(word) & set("/\\:_\0\n \"'")
    assert word[0] not in ".-~"
    assert Path("/root", word).name == word


def test_names_that_are_cut_off_are_told_apart() -> None:
    for end in "ab":
        record(profile("x" * 300 + end), end)
    assert [m.run for m in read(Query(devices=("x" * 300 + "b",)))] == ["b"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"nonsense",
        gzip.compress(b"{}"),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b"\xff"),
        gzip.compress(json.dumps({"run": "r", "profile": {"schema": 99}}).encode()),
        gzip.compress(json.dumps({"run": "r", "profile": {**profile().to_dict(), "artifact": None}}).encode()),
        gzip.compress(json.dumps({"run": "r", "profile": [profile().to_dict()]}).encode()),
        gzip.compress(json.dumps({"profile": profile().to_dict()}).encode()),
    ],
    ids=range(9),
)
def test_a_damaged_file_is_left_out_with_a_word(damage: bytes) -> None:
    broken, whole = record(profile(), "a"), record(profile(), "b")
    broken.write_bytes(damage)
    said: list[str] = []
    assert [m.path for m in read(say=said.append)] == [whole]
    assert len(said) == 1
    assert str(broken) in said[0]
    assert "it is left out" in said[0]


def test_a_file_that_was_cut_off_anywhere() -> None:
    path = record(profile(), "a")
    content = path.read_bytes()
    for size in range(0, len(content), 17):
        path.write_bytes(content[:size])
        assert read() == []
    path.write_bytes(content)
    assert len(read()) == 1


def test_what_is_not_ours_is_not_looked_at() -> None:
    path = record(profile(), "a")
    (history.folder() / "notes.txt").write_text("mine")
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / f".{path.name}.x7").write_bytes(b"half")
    (path.parent / path.name.replace("2026", "9999").replace("T", "T9", 1)).write_bytes(b"")
    said: list[str] = []
    assert len(read(say=said.append)) == 1
    assert said == []


def test_it_is_for_this_account_alone() -> None:
    path = record(profile(), "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for place in (path.parent, history.folder()):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


FULL = """
import json, resource, sys
from edgeferry_devices.history import record
from edgeferry_runtime.profile import Profile
profile = Profile.from_dict(json.loads(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    record(profile, "b")
except OSError as error:
    sys.exit(error.strerror)
"""


def test_a_disk_that_refuses_leaves_nothing() -> None:
    record(profile(), "a")
    command = [sys.executable, "-c", FULL, json.dumps(profile().to_dict())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "File too large\n")
    assert len(files()) == 1
    assert [m.run for m in read()] == ["a"]


WRITER = """
import json, sys
from edgeferry_devices.history import record
from edgeferry_runtime.profile import Profile
profile = Profile.from_dict(json.loads(sys.argv[1]))
for turn in range(100):
    record(profile, f"{sys.argv[2]}{turn}")
"""


def test_two_processes_write_at_once_while_a_third_reads() -> None:
    text = json.dumps(profile().to_dict())
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, text, name]) for name in "ab"]
    said: list[str] = []
    while any(writer.poll() is None for writer in writers):
        read(say=said.append)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(m.run for m in read(say=said.append)) == sorted(
        f"{name}{turn}" for name in "ab" for turn in range(100)
    )
    assert said == []


def test_a_query_opens_no_file_outside_it_among_two_thousand() -> None:
    wanted = record(profile("pi", "wanted", "11" * 32), "a", START)
    for name in ("20260505T120000.000000Z_1111111111111111_wanted", "20260504T120000.000000Z_2222222222222222_other"):
        for index in range(1000):
            (wanted.parent / f"{name}_{index:08x}.json.gz").write_bytes(b"never opened")
    said: list[str] = []
    started = time.perf_counter()
    found = read(Query(devices=("pi",), bundles=("wanted",), until=START + timedelta(hours=1)), say=said.append)
    assert time.perf_counter() - started < 10
    assert [m.path for m in found] == [wanted]
    assert said == []
    assert read(Query(devices=("pi",), bundles=("other",)), say=said.append) == []
    assert len(said) == 1000
