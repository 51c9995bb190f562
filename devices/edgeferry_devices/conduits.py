"""Ways to a server that are no TCP connection of our own: through a jump host, or by a command of the user."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeferry_devices.faults import faults
from edgeferry_devices.route import Route
from edgeferry_runtime.errors import UnreachableError
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    import paramiko


class Conduit:
    """What paramiko takes for a socket, with a deadline on what is sent; TCP's own would not see the far end.

    Args:
        line: What carries the bytes.
        idle: Seconds after which a line that takes nothing counts as dead.
        end: Ends what the line needs, once.
        complaint: Returns what went wrong with it once it has ended; empty where nothing is known.
    """

    def __init__(
        self,
        line: socket.socket | paramiko.Channel,
        idle: float,
        end: Callable[[], object],
        complaint: Callable[[], str] = str,
    ) -> None:
        self._line = line
        self._idle = idle
        self._end: Callable[[], object] | None = end
        self._stalled: float | None = None
        self._lock = threading.Lock()
        self.complaint = complaint
        self.recv, self.settimeout = line.recv, line.settimeout

    def send(self, data: bytes) -> int:
        """Send some of it, and return how much."""
        try:
            sent: int = self._line.send(data)
        except TimeoutError:
            now = time.monotonic()
            self._stalled = now if self._stalled is None else self._stalled
            if now - self._stalled < self._idle:
                raise
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        self._stalled = None
        return sent

    @property
    def _closed(self) -> bool:
        """What paramiko asks a socket for, before it waits for its own thread."""
        return self._end is None

    def close(self) -> None:
        """End the line and what it needs; several threads may do so, and each returns when it is done."""
        import paramiko

        with self._lock:
            end, self._end = self._end, None
            if end is not None:
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    self._line.close()
                end()


def through(route: Route, hop: paramiko.Transport, connect: float, idle: float) -> Conduit:
    """Go on from a jump host; it ends with what it leads to.

    Raises:
        UnreachableError: If the jump host cannot reach the server, or may not.
        DeviceTimeoutError: If it does not answer.
    """
    import paramiko

    gate = route.via.device if route.via else ""
    place = f"{route.host} port {route.port}"
    with undo_on_error(hop.close), faults(route.device, f"going through {gate}"):
        try:
            channel = hop.open_channel("direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=connect)
        except paramiko.ChannelException as error:
            reason = f"its jump host {gate} cannot reach {place} ({error.text or error})"
            fix = "check the address from there, and AllowTcpForwarding of the jump host"
            raise UnreachableError(route.device, reason, fix) from error
    return Conduit(channel, idle, hop.close)


def by_command(route: Route, idle: float) -> Conduit:
    """Start the user's ProxyCommand, in the user's shell as ssh does."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            command = ProxyCommand(route.command, theirs.fileno())
    except OSError as error:
        ours.close()
        reason = f"its ProxyCommand cannot be started ({error.strerror}: {error.filename})"
        raise UnreachableError(route.device, reason, "check $SHELL") from error
    return Conduit(ours, idle, command.end, lambda: command.complaint)


class ProxyCommand:
    """A running command of the user.

    Args:
        text: What the shell executes.
        line: The descriptor of its standard input and output.

    Attributes:
        complaint: What it said, where it ended by itself and failed.
    """

    def __init__(self, text: str, line: int) -> None:
        self.text = text
        self.complaint = ""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        argv = [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {text}"]
        try:
            self._process = subprocess.Popen(argv, stdin=line, stdout=line, stderr=self._said)
        except OSError:
            self._said.close()
            raise

    def end(self) -> None:
        """Let it end, now that its input has; make it end if it does not."""
        with self._said, self._process:
            try:
                self._process.wait(timeout=1)
                self.complaint = self._complaint()
            except subprocess.TimeoutExpired:
                self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _complaint(self) -> str:
        status = self._process.returncode
        self._said.seek(0)
        words = self._said.read(1 << 16).decode(errors="replace").strip().splitlines()
        last = words[-1][:200] if words else "it printed nothing"
        return f"its ProxyCommand {self.text[:120]!r} ended with status {status}: {last}" if status else ""
