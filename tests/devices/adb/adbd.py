"""The device's side of the Android Debug Bridge, to which the real adb server connects over TCP.

It speaks the transport protocol (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE) and the services ``shell,v2`` and ``shell``, whose
commands are real processes of this machine under Android's own shell and tools, mksh and toybox.

Source: protocol.txt, shell_protocol.h and SERVICES.TXT of packages/modules/adb.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HEADER = struct.Struct("<6I")
PACKET = struct.Struct("<BI")
CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_BYTES = 0x01000000, 256 * 1024
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = 0, 1, 2, 3, 4


@dataclass
class Phone:
    """How a device behaves; it may be changed while it runs.

    Attributes:
        environment: Of its commands.
        features: What its banner says it can do.
        trusts: Whether it accepts the key of whoever connects, as after the dialog.
        asks: Whether it wants a key at all.
        mute: Whether it never answers.
        keys: The public keys that it was shown.
    """

    environment: Mapping[str, str]
    features: str = "shell_v2,cmd,stat_v2"
    trusts: bool = True
    asks: bool = False
    mute: bool = False
    keys: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines: list[Line] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            line = Line(self, connection)
            self.lines.append(line)
            threading.Thread(target=line.serve, daemon=True).start()

    def cut(self) -> None:
        """Lose every connection, as when the cable is pulled."""
        for line in self.lines:
            line.close()
        self.lines.clear()

    def close(self) -> None:
        self.listener.close()
        self.cut()


class Line:
    """One connection with an adb server."""

    def __init__(self, phone: Phone, connection: socket.socket) -> None:
        self.phone, self.connection = phone, connection
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}

    def serve(self) -> None:
        with contextlib.suppress(OSError, EOFError), self.connection:
            while True:
                command, first, second, size, _, _ = HEADER.unpack(self.read(HEADER.size))
                data = self.read(size)
                if not self.phone.mute:
                    self.handle(command, first, second, data)
        self.close()

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.connection.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(head + data)

    def handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH):
            self.greet(command, first, data)
        elif command == OPEN:
            stream = Stream(self, len(self.streams) + 1, first, data.rstrip(b"\0").decode())
            self.streams[stream.ours] = stream
            stream.begin()
        elif second in self.streams:
            stream = self.streams[second]
            if command == WRTE:
                stream.incoming.put(data)
            elif command == OKAY:
                stream.may_write.set()
            elif command == CLSE:
                stream.end()

    def greet(self, command: int, first: int, data: bytes) -> None:
        if command == AUTH and first == PUBLIC_KEY:
            self.phone.keys.append(data)
        known = command == AUTH and first == PUBLIC_KEY and self.phone.trusts
        if self.phone.asks and not known:
            if not (command == AUTH and first == PUBLIC_KEY):
                self.send(AUTH, TOKEN, 0, os.urandom(20))
            return
        banner = f"device::ro.product.name=tester;ro.product.model=Tester;features={self.phone.features}"
        self.send(CNXN, VERSION, MOST_BYTES, banner.encode())

    def close(self) -> None:
        for stream in list(self.streams.values()):
            stream.end()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Stream:
    """One service that was opened, and its process."""

    def __init__(self, line: Line, ours: int, theirs: int, service: str) -> None:
        self.line, self.ours, self.theirs = line, ours, theirs
        self.kind, _, self.command = service.partition(":")
        self.incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.may_write, self.lock, self.rest = threading.Event(), threading.Lock(), b""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def speaks_packets(self) -> bool:
        return "v2" in self.kind.split(",")

    def begin(self) -> None:
        if self.kind.split(",")[0] != "shell":
            self.line.send(CLSE, 0, self.theirs)
            return
        pipe = subprocess.PIPE
        err = pipe if self.speaks_packets else subprocess.STDOUT
        environment = dict(self.line.phone.environment)
        argv = ["sh", "-c", self.command]
        self.process = subprocess.Popen(
            argv, executable=f"{environment['PATH']}/sh", env=environment, cwd=environment["TMPDIR"],
            stdin=pipe, stdout=pipe, stderr=err, start_new_session=True, bufsize=0,
        )  # fmt: skip
        self.line.send(OKAY, self.ours, self.theirs)
        self.may_write.set()
        threading.Thread(target=self.watch, args=(self.process,), daemon=True).start()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Take what comes, one piece after the other; the next one is asked for when the process has this one."""
        while data := self.incoming.get():
            self.take(data)
            self.line.send(OKAY, self.ours, self.theirs)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        pumps = [(process.stdout, STDOUT), (process.stderr, STDERR)]
        threads = [threading.Thread(target=self.pump, args=pair, daemon=True) for pair in pumps if pair[0]]
        for thread in threads:
            thread.start()
        status = process.wait()
        for thread in threads:
            thread.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()
        if self.speaks_packets:
            self.write(PACKET.pack(EXIT, 1) + bytes([status if status >= 0 else 128 - status]))
        self.may_write.wait(10)
        self.line.send(CLSE, self.ours, self.theirs)

    def pump(self, stream: IO[bytes], kind: int) -> None:
        while chunk := stream.read(1 << 15):
            self.write(PACKET.pack(kind, len(chunk)) + chunk if self.speaks_packets else chunk)

    def write(self, data: bytes) -> None:
        with self.lock:
            if self.may_write.wait(30):
                self.may_write.clear()
                self.line.send(WRTE, self.ours, self.theirs, data)

    def take(self, data: bytes) -> None:
        """Hand on what comes for the process."""
        assert self.process is not None
        if not self.speaks_packets:
            self.feed(data)
            return
        self.rest += data
        while len(self.rest) >= PACKET.size:
            kind, size = PACKET.unpack(self.rest[: PACKET.size])
            if len(self.rest) < PACKET.size + size:
                return
            body, self.rest = self.rest[PACKET.size : PACKET.size + size], self.rest[PACKET.size + size :]
            if kind == STDIN:
                self.feed(body)
            elif kind == CLOSE_STDIN:
                with contextlib.suppress(OSError):
                    self.process.stdin.close()

    def feed(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(data)

    def end(self) -> None:
        """Kill the process and all it started, as adbd does where nobody listens any more."""
        self.may_write.set()
        self.incoming.put(b"")
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)


def userland(folder: Path, mksh: str, toybox: str) -> Path:
    """Fill a folder with Android's shell and tools, and nothing else."""
    folder.mkdir(parents=True)
    (folder / "sh").symlink_to(mksh)
    for name in subprocess.check_output([toybox], text=True).split():
        if name != "sh":
            (folder / name).symlink_to(toybox)
    if not (folder / "tr").exists():  # Android's toybox has it, Debian's does not
        (folder / "tr").symlink_to("/usr/bin/tr")
    return folder
