"""The keys to offer to a server: those of the agent, of files, and of locked files once the user has unlocked them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_devices.asking import Secrets
from edgeferry_devices.route import Route
from edgeferry_runtime.errors import AuthenticationError

if TYPE_CHECKING:
    import paramiko

TRIES = 3
AGENT_SECONDS = 10.0
MAGIC = b"openssh-key-v1\0"


class Identities:
    """The keys for one server, each read when its turn has come.

    Args:
        route: The way to the server.
        secrets: Where passphrases come from.

    Attributes:
        locked: The encrypted files that nobody has unlocked.
        offered: How many keys were offered; whoever offers them counts.
    """

    def __init__(self, route: Route, secrets: Secrets) -> None:
        self.route = route
        self.secrets = secrets
        self.locked: list[Path] = []
        self.offered = 0

    def offers(self) -> Iterator[paramiko.PKey]:
        """Yield the keys that need no passphrase: the agent's, then those of open files.

        Where the user said which keys to use, the agent gives those alone.

        Raises:
            AuthenticationError: If the user named files that do not exist, or that hold no key.
        """
        blobs = {path: _public_blob(path) for path in self.route.keys}
        with _agent_keys(self.route.device) as held:
            first = [blob for blob in blobs.values() if blob in held]
            others = [] if self.route.only_keys else [blob for blob in held if blob not in first]
            yield from (held[blob] for blob in (*first, *others) if blob is not None)
        files = [path for path, blob in blobs.items() if blob is None or blob not in held]
        self._check_named(files, bool(first))
        yield from filter(None, map(self._open, files))

    def unlocked(self) -> Iterator[paramiko.PKey]:
        """Yield the keys that `offers` found locked, as the user unlocks them.

        Raises:
            AuthenticationError: If a passphrase was wrong too often.
        """
        yield from filter(None, map(self._unlock, tuple(self.locked)))

    def _check_named(self, files: list[Path], some: bool) -> None:
        """Refuse a choice of keys of which there is none."""
        if self.route.only_keys and files and not some and not any(path.is_file() for path in files):
            fix = "check the path of --key or of IdentityFile"
            raise AuthenticationError(self.route.device, f"there is no key file {files[0]}", fix)

    def _open(self, path: Path) -> paramiko.PKey | None:
        """Read a key file; an encrypted one is noted, and one that is none matters only if the user named it."""
        import paramiko

        if not path.is_file():
            return None
        try:
            return paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):
            self.locked.append(path)
        except (paramiko.SSHException, paramiko.UnknownKeyType, ValueError, OSError) as error:
            if _says_encrypted(error):
                self.locked.append(path)
            elif self.route.only_keys:
                reason = f"{path} is no private key ({error})"
                raise AuthenticationError(self.route.device, reason, "give the private key file") from error
        return None

    def _unlock(self, path: Path) -> paramiko.PKey | None:
        import paramiko

        wrong = None
        for _ in range(TRIES):
            passphrase = self.secrets.get(f"Passphrase of {path}", wrong)
            if passphrase is None:
                return None
            with contextlib.suppress(paramiko.SSHException, ValueError):
                key = paramiko.PKey.from_path(path, passphrase.encode())
                self.locked.remove(path)
                return key
            wrong = passphrase
        reason = f"the passphrase of {path} was wrong {TRIES} times"
        raise AuthenticationError(self.route.device, reason, f"unlock it first: ssh-add {path}")


@contextlib.contextmanager
def _agent_keys(device: str) -> Iterator[dict[bytes, Any]]:
    """Give the keys of the running agent by their public halves.

    Raises:
        AuthenticationError: If it does not answer; paramiko would wait for it without end.
    """
    import paramiko

    where = os.environ.get("SSH_AUTH_SOCK")
    if not where or not _answers(device, where):
        yield {}
        return
    agent: Any = None
    with contextlib.suppress(paramiko.SSHException, OSError):
        agent = paramiko.Agent()
    try:
        yield {key.asbytes(): key for key in agent.get_keys()} if agent else {}
    finally:
        if agent:
            agent.close()


def _answers(device: str, where: str) -> bool:
    """Ask an agent for its keys (SSH_AGENTC_REQUEST_IDENTITIES), and tell whether there is one that answers."""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError, FileNotFoundError):
        sock.settimeout(AGENT_SECONDS)
        try:
            sock.connect(where)
            sock.sendall(struct.pack(">IB", 1, 11))
            return bool(sock.recv(1))
        except TimeoutError as error:
            reason = f"the SSH agent at {where} does not answer"
            fix = "start it anew, or leave it out: unset SSH_AUTH_SOCK"
            raise AuthenticationError(device, reason, fix) from error
    return False


def _public_blob(path: Path) -> bytes | None:
    """Return the public half of a key from the file beside it, from itself, or from the head of an OpenSSH key."""
    for file in (path.with_name(path.name + ".pub"), path):
        with contextlib.suppress(OSError, IndexError, UnicodeDecodeError, binascii.Error, struct.error):
            text = file.read_text(encoding="utf-8")
            if text.startswith("-----BEGIN OPENSSH PRIVATE KEY-----"):
                return _blob_of_head(base64.b64decode("".join(text.split("-----")[2].split())))
            if not text.startswith("-----"):
                return base64.b64decode(text.split()[1], validate=True)
    return None


def _blob_of_head(data: bytes) -> bytes | None:
    """Read openssh-key-v1 (OpenSSH's PROTOCOL.key) up to its public key, which is never encrypted."""
    if not data.startswith(MAGIC):
        return None
    offset = len(MAGIC)
    for _ in range(3):  # cipher, key derivation, its options
        offset += 4 + int(struct.unpack_from(">I", data, offset)[0])
    size = int(struct.unpack_from(">I", data, offset + 4)[0])
    return data[offset + 8 : offset + 8 + size]


def _says_encrypted(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("password", "encrypted", "passphrase"))
