"""A conversion that is killed midway leaves only a temporary folder, which the next one removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "models" / "digits.tflite"

CONVERT = """
import sys
from edgeferry_converter import convert
convert(sys.argv[1], sys.argv[2], progress=lambda step: print(step.name, flush=True))
"""


def converter(temporary: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONVERT, str(MODEL), str(output)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_next_conversion_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    temporary, output = tmp_path / "tmp", tmp_path / "out" / "b"
    temporary.mkdir()
    output.parent.mkdir()
    process = converter(temporary, output)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("open")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while not list(temporary.glob("edgeferry-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(temporary.iterdir())) == 1
    assert not list(output.parent.iterdir())
    again = converter(temporary, output)
    again.communicate()
    assert again.returncode == 0
    assert not list(temporary.iterdir())
    assert [p.name for p in output.parent.iterdir()] == ["b"]
