"""The agent of a device over SSH: it is looked for, started and asked its first question in one round trip."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeferry_devices import provision
from edgeferry_devices.faults import faults
from edgeferry_devices.provision import Place
from edgeferry_devices.transfer import LINE_WAIT_S
from edgeferry_runtime.errors import DeviceRequirementError
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    import paramiko

    from edgeferry_devices.device import Say
    from edgeferry_devices.remote import RemoteDevice

START_TIMEOUT_S = 60.0
END_WAIT_S = 5.0


class RemoteAgent:
    """A `Pipe` to an agent, started by the first question to it, which travels with the start.

    Args:
        device: The device.
        root: Its folder, as the inventory has it.
        formats: The artifact formats whose engines are needed, and ``serve``; what is missing is installed first.
        say: Takes the progress of that.
    """

    def __init__(self, device: RemoteDevice, root: str, formats: Sequence[str], say: Say) -> None:
        self._device = device
        self._root = root
        self._formats = tuple(formats)
        self._say = say
        self.begun = False
        self._channel: paramiko.Channel | None = None
        self._rest = b""

    @property
    def channel(self) -> paramiko.Channel:
        """The channel of the agent that runs."""
        assert self._channel is not None
        return self._channel

    def sendall(self, data: bytes) -> None:
        """See `Pipe.sendall`; the first time starts the agent."""
        if self._channel is not None:
            self._channel.sendall(data)
            return
        missing = self._start(data)
        if missing is None:
            return
        provision.complete(self._device, missing, self._formats, self._say)
        if self._start(data) is not None:
            fix = "remove the folder venv there, then try again"
            raise DeviceRequirementError(self._device.name, "what was installed is not found there", fix)

    def recv(self, size: int) -> bytes:
        """See `Pipe.recv`."""
        if self._rest:
            given, self._rest = self._rest[:size], self._rest[size:]
            return given
        received: bytes = self.channel.recv(size)
        return received

    def settimeout(self, seconds: float) -> None:
        """See `Pipe.settimeout`."""
        if self._channel is not None:
            self._channel.settimeout(seconds)

    def close(self, at_once: bool = False) -> None:
        """See `Pipe.close`."""
        import paramiko

        if self._channel is None:
            return
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            if not at_once and not self._channel.closed and self._channel.get_transport().is_active():
                self._channel.shutdown_write()
                self._channel.status_event.wait(END_WAIT_S)
            self._channel.close()

    def post_mortem(self) -> tuple[int, str]:
        """See `Pipe.post_mortem`."""
        status, said = _end_of(self.channel)
        return status, said or ("it was killed" if status == -1 else "")

    def _start(self, first: bytes) -> Place | None:
        """Look, start, and ask; return what was found where something is missing, and no agent runs."""
        from edgeferry_devices.transport import begin_command

        with faults(self._device.name, "starting the agent"):
            channel = self._device.open_session()
            short = len(first) <= provision.LONGEST_QUESTION
            with undo_on_error(channel.close):
                argv = provision.start(self._root, first if short else b"", self._formats)
                self.begun = True
                begin_command(channel, self._device.command_line(argv))
                channel.settimeout(START_TIMEOUT_S)
                _send(channel, b"" if short else first)
                told, started, self._rest = _read(channel)
            if started:
                self._channel = channel
                return None
            with channel:
                status, said = _end_of(channel)
                return provision.read_place(self._device.name, told, said or f"status {status}")


def _send(channel: paramiko.Channel, data: bytes) -> None:
    """Send what an agent will read; where none was started the channel is closed already, and says why."""
    try:
        channel.sendall(data)
    except TimeoutError:
        raise
    except OSError:
        return


def _read(channel: paramiko.Channel) -> tuple[bytes, bytes, bytes]:
    """Return what was found, the word that the agent starts, and what follows it."""
    told = b""
    deadline = time.monotonic() + START_TIMEOUT_S
    while provision.AGENT.encode() not in told:
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        chunk = channel.recv(1 << 16)
        if not chunk:
            break
        told += chunk
    return told.partition(provision.AGENT.encode())


def _end_of(channel: paramiko.Channel) -> tuple[int, str]:
    """Return the exit status, -1 where there is none, and the last words of a command that has ended.

    Raises:
        EOFError: If it is the line that has ended; of the command nothing is known.
    """
    known = channel.status_event.wait(END_WAIT_S)
    said = b""
    while channel.recv_stderr_ready():
        said += channel.recv_stderr(1 << 16)
    if not known or channel.recv_exit_status() == -1:  # nothing, or the name of a signal, came
        time.sleep(LINE_WAIT_S)
        if not channel.get_transport().is_active():
            raise EOFError
        return -1, said.decode(errors="replace")
    return channel.recv_exit_status(), said.decode(errors="replace")
