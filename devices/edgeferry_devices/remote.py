"""A device over SSH."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_devices import provision
from edgeferry_devices.asking import Secrets
from edgeferry_devices.client import AgentClient
from edgeferry_devices.deadline import answer_within
from edgeferry_devices.device import Completed, Say, silent
from edgeferry_devices.faults import faults
from edgeferry_devices.inventory import Entry
from edgeferry_devices.route import resolve
from edgeferry_devices.ssh import Deadlines, connect
from edgeferry_devices.transfer import Sftp, Stream

if TYPE_CHECKING:
    import paramiko


LINE_WAIT_S = 0.2
"""How long the loss of a line may take to be noticed after that of a channel."""


class RemoteDevice:
    """A device over SSH; the connection is made when it is first needed.

    Args:
        entry: Where it is.
        deadlines: How long to wait.
        secrets: Where passphrases and passwords come from; without it nobody is asked.
    """

    def __init__(self, entry: Entry, deadlines: Deadlines | None = None, secrets: Secrets | None = None) -> None:
        self.name = entry.name
        self.entry = entry
        self.deadlines = deadlines or Deadlines()
        self.secrets = secrets or Secrets()
        self._transport: paramiko.Transport | None = None
        self._files: Sftp | Stream | None = None

    @property
    def transport(self) -> paramiko.Transport:
        """The authenticated connection; see `connect` for what is raised."""
        if self._transport is None:
            self._transport = connect(resolve(self.entry), self.deadlines, self.secrets)
        return self._transport

    def exec(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """See `Device.exec`."""
        with faults(self.name, f"running {argv[0]!r}"):
            channel = self.transport.open_session(timeout=self.deadlines.channel)
            with channel:
                channel.settimeout(timeout)
                with answer_within(min(timeout, self.deadlines.channel), channel):
                    channel.exec_command(shlex.join(argv))
                out, err = _converse(channel, stdin or b"", time.monotonic() + timeout)
                status = channel.recv_exit_status() if channel.status_event.wait(5) else -1
        return Completed(tuple(argv), out, err, status)

    def put(self, local: Path, remote: str, offset: int = 0) -> int:
        """See `Device.put`."""
        with faults(self.name, f"sending {local.name}"), contextlib.ExitStack() as stack:
            stack.push(self._after_put)
            self.files.put(local, remote, offset)
        return local.stat().st_size - offset

    def get(self, remote: str, local: Path) -> None:
        """See `Device.get`."""
        with faults(self.name, f"fetching {Path(remote).name}"):
            self.files.get(remote, local)

    @property
    def files(self) -> Sftp | Stream:
        """What carries files."""
        if self._files is None:
            self._files = self._open_files()
        return self._files

    def _open_files(self) -> Sftp | Stream:
        import paramiko

        channel = self._session()
        try:
            with answer_within(self.deadlines.channel, channel):
                channel.invoke_subsystem("sftp")
            return Sftp(self.name, paramiko.SFTPClient(channel))
        except (paramiko.SSHException, EOFError):
            channel.close()
            if not self.transport.is_active():
                raise
            return Stream(self.name, self._session)

    def _session(self) -> paramiko.Channel:
        channel = self.transport.open_session(timeout=self.deadlines.channel)
        channel.settimeout(self.deadlines.idle)
        return channel

    def _after_put(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave a line on which half a packet may be on its way; where a file was refused the line itself is sane."""
        if kind is None:
            return
        refused = issubclass(kind, OSError) and not issubclass(kind, TimeoutError)
        if not refused or self._transport is None or not self._transport.is_active():
            self.close()
        elif self._files is not None:
            self._files.close()
            self._files = None

    def open_agent(self, formats: Sequence[str] = (), say: Say = silent) -> AgentClient:
        """See `Device.open_agent`."""
        place = provision.ensure(self, self.entry.root, formats, say)
        argv = [place.python, "-I", "-m", "edgeferry_runtime.agent", place.root]
        with faults(self.name, "starting the agent"):
            channel = self._session()
            with answer_within(self.deadlines.channel, channel):
                channel.exec_command(shlex.join(argv))
        return AgentClient(self.name, ChannelPipe(channel))

    def close(self) -> None:
        """See `Device.close`."""
        if self._transport is not None:
            self._transport.close()
        self._transport = self._files = None


class ChannelPipe:
    """An agent at the other end of an SSH channel.

    Args:
        channel: The channel, its command started.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.sendall, self.recv, self.settimeout = channel.sendall, channel.recv, channel.settimeout

    def close(self) -> None:
        """End the agent, giving it a moment to clean up."""
        import paramiko

        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            if not self._channel.closed and self._channel.get_transport().is_active():
                self._channel.shutdown_write()
                self._channel.status_event.wait(5)
            self._channel.close()

    def post_mortem(self) -> tuple[int, str]:
        """See `Pipe.post_mortem`."""
        known = self._channel.status_event.wait(5)
        said = b""
        while self._channel.recv_stderr_ready():
            said += self._channel.recv_stderr(1 << 16)
        if not known or self._channel.recv_exit_status() == -1:  # nothing, or the name of a signal, came
            self._check_line()
            return -1, said.decode(errors="replace") or "it was killed"
        return self._channel.recv_exit_status(), said.decode(errors="replace")

    def _check_line(self) -> None:
        time.sleep(LINE_WAIT_S)
        if not self._channel.get_transport().is_active():
            raise EOFError


def _converse(channel: paramiko.Channel, stdin: bytes, deadline: float) -> tuple[bytes, bytes]:
    """Feed a command and collect what it says on both streams, none of which may block the others."""
    err: list[bytes] = []
    aside = threading.Thread(target=_drain, args=(channel.recv_stderr, err), daemon=True)
    aside.start()
    feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
    feeder.start()
    out: list[bytes] = []
    while True:
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        chunk = channel.recv(1 << 16)
        if not chunk:
            break
        out.append(chunk)
    aside.join(timeout=5)
    return b"".join(out), b"".join(err)


def _drain(receive: Any, into: list[bytes]) -> None:
    try:
        while chunk := receive(1 << 16):
            into.append(chunk)
    except (OSError, EOFError):
        return


def _feed(channel: paramiko.Channel, stdin: bytes) -> None:
    try:
        channel.sendall(stdin)
        channel.shutdown_write()
    except (OSError, EOFError):
        return
