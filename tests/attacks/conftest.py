"""What the attacks are made with: the modules of this folder, which is also one of commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:], timeout=60)
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(done.returncode)
"""
"""A small process between the tests' and the command's: a child begins with what its parent takes, and that counts."""


@pytest.fixture
def ferry(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Type a command line as a user does, in a folder of its own, and return the exit code and all that was printed.

    It may take 2 GB, any of its processes, and no longer than a minute.
    """
    import subprocess

    def run(*args: object) -> tuple[int, str]:
        typed = [sys.executable, "-c", "from edgeferry_runtime.cli import main; main()", *map(str, args)]
        peak = tmp_path.with_suffix(".peak")
        command = [sys.executable, "-c", MEASURED, str(peak), *typed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path, check=False)
        assert int(peak.read_text()) < 2 << 20, done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run
