"""Files over an SSH connection: by SFTP, or where the server has none (dropbear) as a checked stream through a command.

Either way the content is checked by its SHA-256 afterwards by whoever asked for it; here its size is.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_devices.deadline import answer_within
from edgeferry_runtime.errors import DeviceRequirementError
from edgeferry_runtime.undo import undo_on_error

if TYPE_CHECKING:
    import paramiko

CHUNK_BYTES = 255 * 1024
"""One write. OpenSSH takes at most 256 KiB a packet; large ones, many in flight, keep a line with delay full."""
WRITE = 'cat >"$1" && wc -c <"$1"'
APPEND = 'cat >>"$1" && wc -c <"$1"'
READ = 'cat <"$1"'
STATUS_WAIT_S = 5.0
LINE_WAIT_S = 0.2
"""How long the loss of a line may take to be noticed after that of a channel."""


class Sftp:
    """Files through the server's SFTP subsystem.

    Args:
        device: The device's name.
        client: The file channel.
    """

    def __init__(self, device: str, client: paramiko.SFTPClient) -> None:
        self.device = device
        self.client = client

    def put(self, local: Path, remote: str, offset: int) -> None:
        """Send a file from `offset` on; the writes are pipelined."""
        with local.open("rb") as source:
            source.seek(offset)
            file: Any = self.client.open(remote, "r+b" if offset else "wb")
            file.MAX_REQUEST_SIZE = CHUNK_BYTES
            file.seek(offset)
            file.set_pipelined(True)
            with undo_on_error(lambda: file.set_pipelined(False)):
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                file.close()
        check_size(self.device, local, self.client.stat(remote).st_size)

    def get(self, remote: str, local: Path) -> None:
        """Fetch a file."""
        self.client.get(remote, str(local))

    def close(self) -> None:
        """End it."""
        self.client.close()


class Stream:
    """Files through the stdin and stdout of ``cat``.

    Args:
        device: The device's name.
        session: Opens a channel, its deadline set.
    """

    def __init__(self, device: str, session: Callable[[], paramiko.Channel]) -> None:
        self.device = device
        self.session = session

    def put(self, local: Path, remote: str, offset: int) -> None:
        """Send a file from `offset` on."""
        import paramiko

        with local.open("rb") as source, self.session() as channel:
            source.seek(offset)
            try:
                _execute(channel, ["sh", "-c", APPEND if offset else WRITE, "sh", remote])
                while chunk := source.read(CHUNK_BYTES):
                    channel.sendall(chunk)
                channel.shutdown_write()
            except TimeoutError:
                raise
            except (paramiko.SSHException, OSError):  # the command may have ended before it was answered
                self._ended(channel, local.name)
                raise
            told = b"".join(iter(lambda: channel.recv(1 << 16), b""))
            self._ended(channel, local.name)
        check_size(self.device, local, int(told))

    def get(self, remote: str, local: Path) -> None:
        """Fetch a file."""
        with local.open("wb") as target, self.session() as channel:
            _execute(channel, ["sh", "-c", READ, "sh", remote])
            channel.shutdown_write()
            while chunk := channel.recv(CHUNK_BYTES):
                target.write(chunk)
            self._ended(channel, Path(remote).name)

    def _ended(self, channel: paramiko.Channel, name: str) -> None:
        """Raise what the command has to say where it failed; where the line was lost nothing is known."""
        status = channel.recv_exit_status() if channel.status_event.wait(STATUS_WAIT_S) else -1
        if status == 0:
            return
        if status == -1 and not self._line_holds(channel):
            raise EOFError
        said = b""
        with contextlib.suppress(TimeoutError):
            said = channel.recv_stderr(1 << 12)
        why = said.decode(errors="replace").strip().rpartition("cat: ")[2] or "cat failed"
        raise DeviceRequirementError(
            self.device, f"{name} could not be copied ({why})", "check the free space and the folder's owner there"
        )

    def _line_holds(self, channel: paramiko.Channel) -> bool:
        time.sleep(LINE_WAIT_S)
        return bool(channel.get_transport().is_active())

    def close(self) -> None:
        """End it; there is nothing open between two files."""


def check_size(device: str, local: Path, size: int | None) -> None:
    """Make sure that all of a file has arrived.

    Raises:
        DeviceRequirementError: If it has not.
    """
    if size != local.stat().st_size:
        raise DeviceRequirementError(
            device, f"{local.name} arrived shorter than it is", "check the free space there with df"
        )


def _execute(channel: paramiko.Channel, argv: Sequence[str]) -> None:
    with answer_within(channel.gettimeout(), channel):
        channel.exec_command(shlex.join(argv))
