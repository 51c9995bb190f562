"""The device ``local``: this machine, with the Python and the engines that are installed here."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeferry_devices.client import AgentClient
from edgeferry_devices.device import Completed, Say, silent
from edgeferry_devices.faults import faults
from edgeferry_devices.inventory import LOCAL
from edgeferry_devices.places import data_dir
from edgeferry_runtime.child import child_command
from edgeferry_runtime.errors import DeviceTimeoutError, MissingExtraError, RemoteCommandError

ENGINES = {
    "tflite": ("litert", ("ai_edge_litert", "tflite_runtime", "tensorflow")),
    "onnx": ("onnx", ("onnxruntime",)),
    "serve": ("serve", ("starlette",)),
}
"""By what is needed, a format or the server: the extra that brings it, and the modules that would do."""


class LocalDevice:
    """This machine.

    Args:
        root: Its folder.
    """

    name = LOCAL

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or data_dir()
        self._pipes: list[LocalPipe] = []
        self._interrupted = False

    def exec(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """See `Device.exec`."""
        given = b"" if stdin is None else stdin
        try:
            done = subprocess.run(list(argv), input=given, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            reason = f"{argv[0]!r} did not end within {timeout:g} s"
            raise DeviceTimeoutError(self.name, reason, "try again when the machine is less busy") from error
        except OSError as error:
            raise RemoteCommandError(self.name, argv, 127, "", f"{argv[0]}: {error.strerror}") from error
        return Completed(tuple(argv), done.stdout, done.stderr, done.returncode)

    def put(self, local: Path, remote: str, offset: int = 0) -> int:
        """See `Device.put`."""
        with faults(self.name, f"copying {local.name}"), local.open("rb") as source:
            source.seek(offset)
            with open(remote, "r+b" if offset else "wb") as target:  # noqa: PTH123 - a path of the device
                target.seek(offset)
                shutil.copyfileobj(source, target, 1 << 20)
        return local.stat().st_size - offset

    def get(self, remote: str, local: Path) -> None:
        """See `Device.get`."""
        with faults(self.name, f"copying {Path(remote).name}"):
            shutil.copyfile(remote, local)

    def open_agent(self, formats: Sequence[str] = (), say: Say = silent) -> AgentClient:
        """See `Device.open_agent`; nothing is installed here."""
        for name in formats:
            if error := missing_engine(name):
                raise error
        self._pipes.append(LocalPipe(child_command("edgeferry_runtime.agent", "main", str(self.root))))
        if self._interrupted:
            self._pipes[-1].shut()
        return AgentClient(self.name, self._pipes[-1])

    def close(self) -> None:
        """See `Device.close`; there is nothing to end."""

    def interrupt(self) -> None:
        """See `Device.interrupt`."""
        self._interrupted = True
        for pipe in tuple(self._pipes):
            pipe.shut()


def missing_engine(name: str) -> MissingExtraError | None:
    """Return what to say where the engine for a format, or the server, is not installed here; None where it is."""
    extra, modules = ENGINES[name]
    installed = any(importlib.util.find_spec(module) for module in modules)
    return None if installed else MissingExtraError(f"device {LOCAL}", extra, modules[0])


class LocalPipe:
    """An agent of this machine at the other end of a socket.

    It has a session of its own, so that Ctrl-C reaches the host alone, which then closes the socket.

    Args:
        argv: What starts the agent.
    """

    begun = True

    def __init__(self, argv: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        with theirs:
            self._process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._stderr,
                start_new_session=True,
            )
        self.sendall, self.recv, self.settimeout = ours.sendall, ours.recv, ours.settimeout

    def shut(self) -> None:
        """Let nothing come or go any more, which the agent takes for the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, at_once: bool = False) -> None:
        """See `Pipe.close`; a child has to be waited for in any case."""
        self._socket.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def post_mortem(self) -> tuple[int, str]:
        """See `Pipe.post_mortem`."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._stderr.seek(0)
        return status, self._stderr.read().decode(errors="replace")
