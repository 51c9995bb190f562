"""A client that says what it likes, byte by byte, and what it hears."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from watching import PATIENCE_S


@dataclass
class Client:
    """A plain socket that speaks, and lists what it hears."""

    port: int
    sock: socket.socket = field(init=False)
    file: BufferedReader = field(init=False)

    def __post_init__(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        self.sock.close()

    def send(self, *parts: bytes) -> Client:
        """Send bytes."""
        self.sock.sendall(b"".join(parts))
        return self

    def wrap(self, context: ssl.SSLContext) -> Client:
        """Speak TLS from now on."""
        self.sock = context.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")
        return self

    def answer(self) -> Answer:
        """Read one answer, and nothing of the next one."""
        status = self.file.readline().split()
        assert len(status) > 1, "the server closed the connection"
        lines = iter(lambda: self.file.readline().strip(), b"")
        pairs = (line.decode("latin-1").split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        return Answer(int(status[1]), headers, self.file.read(int(headers["content-length"])))

    def rest(self) -> bytes:
        """Read until the server closes; a reset ends it too."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := self.file.read(1 << 16):
                found += part
        return found


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The reason in it."""
        found: str = json.loads(self.body)["error"]
        return found


def lets_in(server: Any, request: bytes) -> bool:
    """Tell whether a new connection is answered; one too many may be reset before it has heard why."""
    with contextlib.suppress(OSError, AssertionError), server.connect() as client:
        return bool(client.send(request).answer().status == 200)
    return False
