"""What a device is: a machine where commands run, files go, and our agent answers. ``local`` is one like any other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeferry_devices.asking import Secrets
from edgeferry_devices.client import AgentClient
from edgeferry_devices.inventory import LOCAL
from edgeferry_runtime.errors import RemoteCommandError

Say = Callable[[str], None]
"""Takes one line about the progress."""


def silent(message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Completed:
    """A command that has ended.

    Attributes:
        argv: What was executed.
        stdout: What it printed.
        stderr: What it complained.
        exit_status: Its exit status; negative where a signal killed it.
    """

    argv: tuple[str, ...]
    stdout: bytes
    stderr: bytes
    exit_status: int

    def check(self, device: str) -> Completed:
        """Return itself if the command succeeded.

        Raises:
            RemoteCommandError: If it did not.
        """
        if self.exit_status == 0:
            return self
        out, err = (said.decode(errors="replace") for said in (self.stdout, self.stderr))
        raise RemoteCommandError(device, self.argv, self.exit_status, out, err)


class Device(Protocol):
    """A machine reached by name.

    Attributes:
        name: Its name.
    """

    name: str

    def exec(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run a command there; the arguments reach it as they are.

        Args:
            argv: The program and its arguments.
            stdin: What it reads; nothing where None.
            timeout: Seconds until it must have ended.

        Raises:
            DeviceTimeoutError: If it has not.
            UnreachableError: If the connection is lost.
        """
        ...

    def put(self, local: Path, remote: str, offset: int = 0) -> int:
        """Copy a file there, and return how many bytes were sent.

        Args:
            local: The file.
            remote: Where it goes.
            offset: How many bytes of it are there already.

        Raises:
            DeviceRequirementError: If the device refuses it.
        """
        ...

    def get(self, remote: str, local: Path) -> None:
        """Copy a file from there."""
        ...

    def open_agent(self, formats: Sequence[str] = (), say: Say = silent) -> AgentClient:
        """Start our agent there, bringing first what it lacks.

        Args:
            formats: The artifact formats whose engines will be needed, such as ``tflite``; ``serve`` for the server.
            say: Takes the progress.

        Raises:
            DeviceRequirementError: If the device cannot take what is needed.
            MissingExtraError: If an engine is not installed on this machine, for ``local``.
        """
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    def interrupt(self) -> None:
        """End whatever goes on there, from another thread; what waits for the device raises a `DeviceError`.

        The device cannot be used any more.
        """
        ...


@contextlib.contextmanager
def open_device(name: str, secrets: Secrets | None = None) -> Iterator[Device]:
    """Open a device by its name, and close it afterwards.

    Args:
        name: Its name, or ``user@host[:port]`` or ``adb:SERIAL``.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Raises:
        UnknownNameError: If there is none of this name.
        DeviceError: If it cannot be reached.
    """
    device = _open(name, secrets)
    try:
        yield device
    finally:
        device.close()


def _open(name: str, secrets: Secrets | None) -> Device:
    if name == LOCAL:
        from edgeferry_devices.local import LocalDevice

        return LocalDevice()
    from edgeferry_devices import inventory

    entry = inventory.get(name)
    if entry.serial:
        from edgeferry_devices.adb import AdbDevice

        return AdbDevice(entry)
    from edgeferry_devices.remote import RemoteDevice

    return RemoteDevice(entry, secrets=secrets)
