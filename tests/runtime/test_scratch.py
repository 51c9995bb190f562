"""Temporary folders: gone when done, gone after a kill, and never another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeferry_runtime.scratch import LOCK, scratch

HOLD = """
import sys
from pathlib import Path
from edgeferry_runtime.scratch import scratch
with scratch("x-", ".part", Path(sys.argv[1])) as folder:
    (folder / "big").write_bytes(b"0" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a folder."""
    command = [sys.executable, "-c", HOLD, str(parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_it_is_gone_when_done_and_when_failed(tmp_path: Path) -> None:
    with scratch(parent=tmp_path) as folder:
        assert [p.name for p in folder.iterdir()] == [LOCK]
        assert (folder / LOCK).read_text() == f"{os.getpid()}\n"
    with pytest.raises(ZeroDivisionError), scratch(parent=tmp_path) as folder:
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_interrupt_as_soon_as_it_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def interrupted(*arguments: Any, **options: Any) -> None:
        make(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch(parent=tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    end(process)
    assert (left / "big").exists()
    with scratch("x-", ".part", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_belongs_to_others_stays(tmp_path: Path) -> None:
    process, living = holder(tmp_path)
    unmarked, other = tmp_path / "x-unmarked.part", tmp_path / "y-other.part"
    for folder in (unmarked, other):
        folder.mkdir()
    (other / LOCK).touch()
    link = tmp_path / "x-link.part"
    link.symlink_to(other)
    with scratch("x-", ".part", tmp_path):
        assert {living, unmarked, other, link} < set(tmp_path.iterdir())
        assert (living / "big").exists()
        assert (other / LOCK).exists()
    end(process)
    assert not living.exists()


def test_two_at_once_in_one_process(tmp_path: Path) -> None:
    with scratch(parent=tmp_path) as first, scratch(parent=tmp_path) as second:
        assert first != second
        assert {first, second} == set(tmp_path.iterdir())
