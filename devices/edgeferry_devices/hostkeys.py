"""Host keys: which ones the user trusts, and the refusal of all others.

Our own file, written by ``ferry device trust``, comes before OpenSSH's, so that a change that the user has
confirmed holds while the old key is still in ``~/.ssh/known_hosts``. Hashed names, ``[host]:port``, patterns
and ``@revoked`` are understood as in sshd(8), section SSH_KNOWN_HOSTS.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeferry_devices.places import config_dir
from edgeferry_runtime.errors import HostKeyError
from edgeferry_runtime.whole import write_private


@dataclass(frozen=True)
class HostKey:
    """A server's public key.

    Attributes:
        kind: Its algorithm, such as ``ssh-ed25519``.
        blob: Its public part, as on the wire.
        revoked: True where a file says that it must not be used any more.
    """

    kind: str
    blob: bytes
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """``SHA256:…``, as ``ssh-keygen -l`` shows it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


def pinned_path() -> Path:
    """Return our own known_hosts file."""
    return config_dir() / "known_hosts"


def openssh_paths() -> tuple[Path, ...]:
    """Return the files that OpenSSH itself reads."""
    return Path.home() / ".ssh" / "known_hosts", Path("/etc/ssh/ssh_known_hosts")


def lookup_name(host: str, port: int) -> str:
    """Return the name under which known_hosts files keep a server."""
    return host if port == 22 else f"[{host}]:{port}"


def known(files: Iterable[Path], name: str) -> list[HostKey]:
    """Return every key that the files hold for a server; a file that is not there holds none."""
    return [key for file in files for pattern, key in _entries(_text(file)) if matches(pattern, name)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _entries(text: str) -> Iterator[tuple[str, HostKey]]:
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        try:
            yield words[0], HostKey(words[1], base64.b64decode(words[2], validate=True), marker == "@revoked")
        except binascii.Error:
            continue


def matches(patterns: str, name: str) -> bool:
    """Tell whether the first field of a known_hosts line names a server."""
    if patterns.startswith("|1|"):
        return _hash_matches(patterns, name)
    split = [(p.startswith("!"), p.lstrip("!").lower()) for p in patterns.split(",")]
    fits = [(negated, p) for negated, p in split if _fits(p, name.lower())]
    return bool(fits) and not any(negated for negated, _ in fits)


def _fits(pattern: str, name: str) -> bool:
    return pattern == name or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def trusted(name: str, openssh: Sequence[Path] | None = None) -> list[HostKey]:
    """Return the keys that count for a server: ours where we pinned any, else OpenSSH's."""
    files = openssh_paths() if openssh is None else openssh
    theirs = known(files, name)
    ours = known([pinned_path()], name)
    return [*(key for key in theirs if key.revoked), *(ours or [key for key in theirs if not key.revoked])]


def check(device: str, key: HostKey, trust: Sequence[HostKey]) -> None:
    """Accept a server's key, or say why not.

    Args:
        device: The device's name.
        key: What the server showed.
        trust: What `trusted` returned.

    Raises:
        HostKeyError: If the key is unknown, changed or revoked; nothing is ever added here.
    """
    if any(k.revoked and k.blob == key.blob for k in trust):
        raise HostKeyError(device, f"its host key {key} was revoked", "ask who runs the device for its new key")
    valid = [k for k in trust if not k.revoked]
    if any(k.blob == key.blob and k.kind == key.kind for k in valid):
        return
    if not valid:
        reason = f"its host key is unknown: {key}"
        raise HostKeyError(device, reason, f"compare the fingerprint, then run: ferry device trust {device}")
    shown = ", ".join(str(k) for k in valid)
    raise HostKeyError(
        device,
        f"its host key CHANGED: it shows {key}, known is {shown}; somebody may be listening",
        f"find out why; if the change is right, run: ferry device trust {device}",
    )


def pin(name: str, key: HostKey) -> None:
    """Make `key` the one key that we trust for a server."""
    path = pinned_path()
    kept = [line for line in _text(path).splitlines() if not _is_of(line, name)]
    line = f"{name} {key.kind} {base64.b64encode(key.blob).decode()}"
    write_private(path, "\n".join([*kept, line]) + "\n")


def _is_of(line: str, name: str) -> bool:
    return any(matches(pattern, name) for pattern, _ in _entries(line))
