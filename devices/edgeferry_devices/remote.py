"""A device over SSH."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_devices.asking import Secrets
from edgeferry_devices.client import AgentClient
from edgeferry_devices.deadline import answer_within
from edgeferry_devices.device import Completed, Say, silent
from edgeferry_devices.faults import faults
from edgeferry_devices.inside import check_serving, wrap
from edgeferry_devices.inventory import Entry
from edgeferry_devices.knowing.wheels_known import SERVE
from edgeferry_devices.remote_agent import RemoteAgent
from edgeferry_devices.route import resolve
from edgeferry_devices.ssh import Deadlines, connect
from edgeferry_devices.transfer import STATUS_WAIT_S, Sftp, Stream
from edgeferry_runtime.errors import UnreachableError

if TYPE_CHECKING:
    import paramiko

    from edgeferry_devices.transport import Transport


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
        self._transport: Transport | None = None
        self._files: Sftp | Stream | None = None
        self._interrupted = False

    @property
    def transport(self) -> Transport:
        """The authenticated connection; see `ssh.connect` for what is raised."""
        return self.connect()

    def connect(self) -> Transport:
        """Connect where that is not done yet, and return the connection."""
        if self._transport is None and not self._interrupted:
            self._transport = connect(resolve(self.entry), self.deadlines, self.secrets)
        if self._interrupted or self._transport is None:
            raise UnreachableError(self.name, "was interrupted", "begin again")
        return self._transport

    def exec(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """See `Device.exec`."""
        with faults(self.name, f"running {argv[0]!r}"):
            channel = self.transport.session()
            with channel:
                channel.settimeout(timeout)
                with answer_within(min(timeout, self.deadlines.channel), channel):
                    channel.exec_command(self.command_line(argv))
                out, err = _converse(channel, stdin or b"", time.monotonic() + timeout)
                status = channel.recv_exit_status() if channel.status_event.wait(STATUS_WAIT_S) else -1
        return Completed(tuple(argv), out, err, status)

    def command_line(self, argv: Sequence[str]) -> str:
        """Return what the device's shell is given to execute a command, inside a distribution where it has one."""
        return shlex.join(wrap(self.entry.inside, argv))

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

        channel = self.open_session()
        try:
            with answer_within(self.deadlines.channel, channel):
                channel.invoke_subsystem("sftp")
            return Sftp(self.name, paramiko.SFTPClient(channel))
        except TimeoutError:
            raise
        except (paramiko.SSHException, EOFError, OSError):  # no, or a yes by a server that then finds no program for it
            channel.status_event.wait(STATUS_WAIT_S)  # dropbear would close the next channel at the end of this one
            channel.close()
            if not self.transport.is_active():
                raise
            return Stream(self.name, self.open_session)

    def open_session(self) -> paramiko.Channel:
        """Open a channel for one command."""
        channel = self.transport.session()
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
        """See `Device.open_agent`; the agent is started with the first question to it, the connection is made now."""
        if SERVE in formats:
            check_serving(self.name, self.entry.inside)
        self.connect()
        return AgentClient(self.name, RemoteAgent(self, self.entry.root, formats, say))

    def close(self) -> None:
        """See `Device.close`."""
        if self._transport is not None:
            self._transport.close()
        self._transport = self._files = None

    def interrupt(self) -> None:
        """See `Device.interrupt`."""
        self._interrupted = True
        if (transport := self._transport) is not None:
            transport.close()


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
