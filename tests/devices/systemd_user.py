"""A real ``systemd --user`` for tests, where the machine itself was not booted with systemd.

It runs in a mount namespace, where ``/run/systemd/system`` says that there is a systemd, and in control groups of its
own; its socket lies in a folder of the test, so that ``systemctl --user`` reaches it from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "/lib/systemd/systemd"
GROUPS = Path("/sys/fs/cgroup")
BEGIN = """
for group in "$@"; do mkdir -p "$group" && echo $$ > "$group/cgroup.procs" || exit 1; done
mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec "$0" --user
"""


def lacking() -> str:
    """Return why none can be started here; empty where one can."""
    if os.getuid() != 0:
        return "a systemd --user of our own needs root"
    if not (Path(PROGRAM).exists() and shutil.which("systemctl") and Path("/run/systemd").is_dir()):
        return "systemd is not installed (package systemd)"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "mount namespaces are not allowed here"
    return "" if _hierarchies() else "no control groups can be made here"


def _hierarchies() -> list[Path]:
    """Return where systemd has its groups: one hierarchy, or two where the old version is mounted too."""
    old = [GROUPS / name for name in ("systemd", "unified")]
    found = [path for path in old if path.is_dir()] or [GROUPS]
    return [path for path in found if os.access(path / "cgroup.procs", os.W_OK)]


@contextlib.contextmanager
def systemd_user(folder: Path, home: Path) -> Iterator[Path]:
    """Start one, and end all that it runs.

    Args:
        folder: Where its socket goes.
        home: The home of the account.

    Yields:
        What ``XDG_RUNTIME_DIR`` has to be.
    """
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    name = f"edgeferry-test-{uuid.uuid4().hex[:8]}"
    groups = [path / name for path in _hierarchies()]
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "PATH": os.environ["PATH"]}
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BEGIN, PROGRAM, *map(str, groups)]
    with (folder / "systemd.log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(environment, process, folder / "systemd.log")
        yield runtime
    finally:
        process.terminate()
        process.wait(timeout=60)
        for group in groups:
            _remove(group)


def _wait(environment: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    argv = ["systemctl", "--user", "show", "--property=Version"]
    while subprocess.run(argv, env=environment, capture_output=True, check=False).returncode:
        assert process.poll() is None and time.monotonic() < deadline, f"systemd did not start: {log.read_text()}"
        time.sleep(0.05)


def _remove(group: Path) -> None:
    """Remove a group and those below it, as soon as the kernel has seen the end of their processes."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.02)
