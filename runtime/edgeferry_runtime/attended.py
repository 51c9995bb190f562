"""Work in a child process, a `edgeferry_runtime.worker`, that is ended as soon as nobody waits for it any more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from edgeferry_runtime.wire import PROGRESS, decode_error
from edgeferry_runtime.worker import command, death

Tell = Callable[[bytes], object]
"""Takes a line of progress."""


class Attended:
    """One piece of work after the other, each in a process of its own.

    Args:
        tell: Takes what the work tells before it is done.
    """

    def __init__(self, tell: Tell = bool) -> None:
        self.alone = False
        self._tell = tell
        self._child: subprocess.Popen[bytes] | None = None

    def leave(self) -> None:
        """Wait for nothing any more; may be called from another thread."""
        self.alone = True
        child = self._child
        if child is not None:
            child.kill()

    def do(self, request: Mapping[str, Any], subject: str) -> dict[str, Any]:
        """Have a request done, and return its result.

        Raises:
            EdgeferryError: What the work has to say.
            EngineCrashError: If its process dies.
        """
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as child:
                assert child.stdin is not None
                assert child.stdout is not None
                self._child = child
                if self.alone:
                    child.kill()
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps({**request, "attended": True}).encode() + b"\n")
                    child.stdin.flush()
                written = [line for line in child.stdout if not self._told(line)]
                child.wait()
                with contextlib.suppress(BrokenPipeError):  # what it was killed before it could read
                    child.stdin.close()
            self._child = None
            said.seek(0)
            if child.returncode or not written:
                raise death(subject, child.returncode, said.read().decode(errors="replace"))
        answer = json.loads(written[-1])
        if "error" in answer:
            raise decode_error(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _told(self, line: bytes) -> bool:
        """Pass a line of progress on, and tell whether it was one."""
        if line.startswith(PROGRESS):
            self._tell(line)
        return line.startswith(PROGRESS)
