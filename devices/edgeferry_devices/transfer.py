"""Files over an SSH connection: by SFTP, or where the server has none (dropbear) as a checked stream through a command.

Either way the content is checked by its SHA-256 afterwards by whoever asked for it; here its size is.
"""

from __future__ import annotations

import contextlib
import shlex
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
        _check(self.device, local, self.client.stat(remote).st_size)

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
        with local.open("rb") as source, self.session() as channel:
            source.seek(offset)
            _execute(channel, ["sh", "-c", APPEND if offset else WRITE, "sh", remote])
            try:
                while chunk := source.read(CHUNK_BYTES):
                    channel.sendall(chunk)
                channel.shutdown_write()
            except TimeoutError:
                raise
            except OSError:
                self._ended(channel, local.name)
                raise
            told = b"".join(iter(lambda: channel.recv(1 << 16), b""))
            self._ended(channel, local.name)
        _check(self.device, local, int(told))

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
        if not channel.status_event.wait(STATUS_WAIT_S) or channel.recv_exit_status() == -1:
            raise EOFError
        if channel.recv_exit_status() == 0:
            return
        said = b""
        with contextlib.suppress(TimeoutError):
            said = channel.recv_stderr(1 << 12)
        why = said.decode(errors="replace").strip().rpartition("cat: ")[2] or "cat failed"
        raise DeviceRequirementError(
            self.device, f"{name} could not be copied ({why})", "check the free space and the folder's owner there"
        )

    def close(self) -> None:
        """End it; there is nothing open between two files."""


def _check(device: str, local: Path, size: int | None) -> None:
    if size != local.stat().st_size:
        raise DeviceRequirementError(
            device, f"{local.name} arrived shorter than it is", "check the free space there with df"
        )


def _execute(channel: paramiko.Channel, argv: Sequence[str]) -> None:
    with answer_within(channel.gettimeout(), channel):
        channel.exec_command(shlex.join(argv))
