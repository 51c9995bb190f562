"""What is read while something is measured."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from edgeferry_runtime.measurement.watch import Scheduling, Watch, parse_stolen, parse_wait, scheduling


def test_the_state_is_read_once_a_second() -> None:
    readings = iter(range(100))
    watch = Watch(lambda: {"temperature_c": next(readings)})
    for tenth in range(35):
        watch.between(tenth / 10)
    assert watch.states == [{"at_s": float(i), "temperature_c": i - 1} for i in (1, 2, 3)]


def test_slow_runs_are_read_after_each() -> None:
    watch = Watch(dict)
    for spent in (0.0, 7.0, 14.0):
        watch.between(spent)
    assert [state["at_s"] for state in watch.states] == [7.0, 14.0]


def test_waiting_is_summed_over_threads(tmp_path: Path) -> None:
    for thread, text in {"1": "5000 1500000000 3\n", "2": "0 500000000 1\n", "3": "junk", "4": "7"}.items():
        (tmp_path / "proc/self/task" / thread).mkdir(parents=True)
        (tmp_path / "proc/self/task" / thread / "schedstat").write_text(text)
    assert scheduling(tmp_path).waited_s == 2.0
    assert parse_wait(tmp_path / "none") is None


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    assert scheduling(tmp_path).waited_s is None
    assert Scheduling(None, 2.0).since(Scheduling(3, None)) == Scheduling()
    assert Scheduling(5, 2.0, 1.5).since(Scheduling(3, 0.5, 1.0)) == Scheduling(2, 1.5, 0.5)


def test_stolen_time_is_read(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 0 20 300 5 0 1 250 0 0\ncpu0 10 0 20 300 5 0 1 250 0 0\n")
    assert parse_stolen(stat) == 250 / os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  10 0\n")
    assert parse_stolen(stat) is None


@pytest.mark.slow
def test_a_crowd_on_one_core_is_seen() -> None:
    """Two busy processes share one core: each waits about half of the time."""
    allowed = os.sched_getaffinity(0)
    done = threading.Event()
    os.sched_setaffinity(0, {min(allowed)})
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "while :; do :; done"], dict(os.environ))
    try:
        before, begin = scheduling(), time.perf_counter()
        while time.perf_counter() - begin < 0.5:
            done.is_set()
        counted = scheduling().since(before)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.sched_setaffinity(0, allowed)
    assert counted.involuntary
    assert counted.waited_s is None or counted.waited_s > 0.1
