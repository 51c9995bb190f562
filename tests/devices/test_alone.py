"""One at a time, among threads and among processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeferry_devices.alone import alone


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with alone(tmp_path / "new" / ".lock"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_process_that_dies_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = f"""
import pathlib, time
from edgeferry_devices.alone import alone
with alone(pathlib.Path({str(path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        got = threading.Event()

        def take() -> None:
            with alone(path):
                got.set()

        waiting = threading.Thread(target=take)
        waiting.start()
        assert not got.wait(0.3)
        process.kill()
        waiting.join(timeout=10)
    assert got.is_set()


def test_an_error_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / ".lock"):
        raise ZeroDivisionError
    with alone(tmp_path / ".lock"):
        pass
