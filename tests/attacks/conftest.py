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

    It may take 2 GB, any of its processes, and no longer than a minute.
    """
    import os
    import subprocess
    from threading import Timer

    def run(*args: object) -> tuple[int, str]:
        command = [sys.executable, "-c", "from edgeferry_runtime.cli import main; main()", *map(str, args)]
        with (tmp_path / "stdout").open("w+") as out, (tmp_path / "stderr").open("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=tmp_path)
            deadline = Timer(60, process.kill)
            deadline.start()
            _, status, usage = os.wait4(process.pid, 0)
            deadline.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            said = [file.read() for file in (out, err) if not file.seek(0)]
        assert usage.ru_maxrss < 2 << 20
        assert "Traceback" not in said[1]
        return process.returncode, "".join(said)

    return run
