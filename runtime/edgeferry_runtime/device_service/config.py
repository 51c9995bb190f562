"""What a device was told about its service, kept in a private file."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeferry_runtime import __version__
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.whole import write_private

FOLDER = "service"
LOOPBACK = ("localhost", "::1")
LONGEST_DRAIN_S = 3600.0
SPARE_S = 15.0
"""What ending takes beyond the requests in flight."""


@dataclass(frozen=True)
class Server:
    """How to serve.

    Attributes:
        words: Options of ``ferry serve``, as they are.
        host: The interface that they name.
        port: The port of HTTP that they name.
        encrypted: Whether they make it speak TLS.
        token_file: The file on the device that they name for the token; empty where they name none.
        drain_s: How long they let requests in flight take at the end.
    """

    words: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    encrypted: bool = False
    token_file: str = ""
    drain_s: float = 30.0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Server:
        """Read it from its JSON form."""
        return cls(**{**told, "words": tuple(told["words"])})

    @property
    def local(self) -> bool:
        """Whether only the device itself reaches it."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    @property
    def stop_s(self) -> float:
        """How long it may take to end."""
        return self.drain_s + SPARE_S

    @property
    def near(self) -> str:
        """Where the device itself reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104

    @property
    def url(self) -> str:
        """Its address, as far as the device knows it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.encrypted else 'http'}://{host}:{self.port}"


@dataclass(frozen=True)
class Config:
    """A service that is installed.

    Attributes:
        server: How it serves.
        way: ``systemd`` or ``background``.
        runtime: The version of our runtime that was started.
        made: Folders outside of ours that were made for it, the nearest first.
        lingers: Whether it was for it that the account's services outlive a logout.
    """

    server: Server
    way: str
    runtime: str
    made: tuple[str, ...] = ()
    lingers: bool = False

    @classmethod
    def read(cls, root: Path) -> Config | None:
        """Read what is kept below a device's folder; None where there is no service.

        Raises:
            UsageError: If it is damaged.
        """
        path = root / FOLDER / "config.json"
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**told, "server": Server.of(told["server"]), "made": tuple(told["made"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(path, "is damaged", "remove the service: ferry service remove") from error

    def write(self, root: Path) -> None:
        """Keep it, whole or not at all."""
        write_private(root / FOLDER / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    def started_now(self) -> Config:
        """Return it with the version of the runtime that is here."""
        return replace(self, runtime=version())


def version() -> str:
    """Return the version of our runtime, with the hash of its content where a host installed it."""
    try:
        return str(json.loads((Path(sys.prefix) / "edgeferry.json").read_text(encoding="utf-8"))["runtime"])
    except (OSError, ValueError, KeyError, TypeError):
        return __version__


def patience(root: Path) -> float:
    """Return how long the service of a device may take to end."""
    try:
        config = Config.read(root)
    except UsageError:
        config = None
    return (config.server if config else Server()).stop_s


def token_file(root: Path, server: Server) -> Path | None:
    """Return the file with the token that clients must show; None where none is asked for."""
    if server.token_file:
        return root / FOLDER / server.token_file
    return None if server.local else root / FOLDER / "token"


def make_token(root: Path, server: Server) -> None:
    """Make a token for a server that other machines reach, where there is none yet."""
    path = token_file(root, server)
    if path is not None and not server.token_file and not path.exists():
        write_private(path, secrets.token_urlsafe(32) + "\n")


def command(root: Path, server: Server) -> list[str]:
    """Return the argument list that serves every bundle of a device."""
    isolated = ["-I"] if sys.flags.isolated else []
    token = [] if server.local or server.token_file else ["--token-file", str(root / FOLDER / "token")]
    ours = ["serve", "--repository", str(root / "bundles")]
    return [sys.executable, *isolated, "-m", "edgeferry_runtime", *ours, *server.words, *token]
