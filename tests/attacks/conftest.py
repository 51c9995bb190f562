"""What the attacks are made with: the modules of this folder, which is also one of commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def ferry(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Type a command line as a user does, in a folder of its own, and return the exit code and all that was printed.

    It may take 2 GB, all processes together, and no longer than a minute.
    """
    import resource
    import subprocess

    def run(*args: object) -> tuple[int, str]:
        command = [sys.executable, "-c", "from edgeferry_runtime.cli import main; main()", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 << 20
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run
