"""``~/.ssh/config``, as far as it says how to reach a host. paramiko reads it; what paramiko leaves out is done here.

Not read: the configuration of the whole system, and ``Match exec``. Never obeyed: ``StrictHostKeyChecking no``.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_devices.inventory import Address
from edgeferry_runtime.errors import MissingExtraError, UsageError


@dataclass(frozen=True)
class Settings:
    """What the configuration says of one host.

    Attributes:
        host: The name or address to connect to.
        port: The port.
        user: The account.
        identities: The key files that it names.
        identities_only: True where no other key may be offered.
        known_as: The server's name in known_hosts files, where it is not its address; else empty.
        known_hosts: The known_hosts files that it names; None where it names none.
        jump: The jump hosts, joined by commas; empty without.
        command: The command that connects, its tokens replaced; empty without.
    """

    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    identities_only: bool
    known_as: str
    known_hosts: tuple[Path, ...] | None
    jump: str
    command: str


def read(address: Address, jump: str = "") -> Settings:
    """Look up a host; what the address itself says wins, as on the command line of ssh.

    Args:
        address: The host as the user calls it, its user and port where they are given.
        jump: Jump hosts that win over those of the configuration.

    Raises:
        UsageError: If the configuration is damaged, or asks for what is not supported.
        MissingExtraError: If paramiko is not installed.
    """
    try:
        import paramiko
    except ModuleNotFoundError as error:
        raise MissingExtraError("a device over SSH", "devices", "paramiko") from error

    path = Path.home() / ".ssh" / "config"
    given = {"User": address.user, "Port": address.port or "", "ProxyJump": jump}
    lines = [f"{key} {value}" for key, value in given.items() if value]
    config = paramiko.SSHConfig()
    config.TOKENS_BY_CONFIG_KEY = _NoTokens()
    try:
        config.parse([*lines, *(_lines(path, "Host *", 0) if path.is_file() else ())])
        return _settings(address, config.lookup(address.host))
    except (paramiko.SSHException, OSError, ValueError, LookupError) as error:
        raise UsageError(path, f"cannot be read ({error})", "correct the file") from error


class _NoTokens(dict[str, list[str]]):
    """Keeps paramiko from replacing tokens, of which it knows too few, and from executing commands, fed our stdin."""

    def get(self, key: str, default: object = None) -> Any:
        """Return no tokens; it asks for those of ``match-exec`` just before it executes."""
        if key == "match-exec":
            raise ValueError("Match exec is not supported: decide by Host or Match host")
        return []


def _lines(path: Path, block: str, depth: int) -> Iterator[str]:
    """Yield a file's lines with those of the files that it includes, which paramiko leaves out.

    Args:
        path: The file.
        block: The ``Host`` or ``Match`` line that holds where it is included; it holds again after each inclusion.
        depth: How many inclusions deep it is; ssh_config(5) allows 16.
    """
    if depth > 16:
        raise ValueError(f"{path} is included more than 16 deep")
    for line in path.read_text(encoding="utf-8").splitlines():
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() in ("host", "match"):
            block = line
        if keyword.lower() != "include":
            yield line
            continue
        for pattern in shlex.split(value):
            where = str(Path.home() / ".ssh" / Path(pattern).expanduser())
            for name in sorted(glob.glob(where)):  # noqa: PTH207 - the pattern is absolute
                yield from _lines(Path(name), block, depth + 1)
        yield block


def _settings(address: Address, config: Mapping[str, Any]) -> Settings:
    host = _expand(_word(config, "hostname"), {"h": address.host})
    port, user = _port(_word(config, "port", "22")), _word(config, "user", getpass.getuser())
    tokens = {"h": host, "n": address.host, "p": str(port), "r": user}
    alias = _word(config, "hostkeyalias")
    here = {"d": str(Path.home()), "u": getpass.getuser(), "i": str(os.getuid()), "k": alias or address.host}
    files = {**tokens, **here}
    named = _word(config, "userknownhostsfile").split()
    return Settings(
        host=host,
        port=port,
        user=user,
        identities=tuple(_path(name, files) for name in config.get("identityfile", ()) if name.lower() != "none"),
        identities_only=_word(config, "identitiesonly", "no").lower() == "yes",
        known_as=alias,
        known_hosts=tuple(_path(name, files) for name in named if name.lower() != "none") if named else None,
        **_proxy(config, tokens),
    )


def _word(config: Mapping[str, Any], key: str, default: str = "") -> str:
    """Return a value without the comment behind it."""
    return re.sub(r"\s+#.*", "", str(config.get(key, default)))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise ValueError(f"{text!r} is no port")
    return int(text)


def _path(name: str, tokens: Mapping[str, str]) -> Path:
    missing = [v for v in re.findall(r"\$\{(\w+)\}", name) if v not in os.environ]
    if missing:
        raise ValueError(f"{name} needs the variable {missing[0]}, which is not set")
    known = re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]].replace("%", "%%"), name)
    return Path(_expand(re.sub(r"\s+#.*", "", known), tokens)).expanduser()


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replace the tokens of ssh_config(5)."""
    known = {"%": "%", **tokens}

    def value(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise ValueError(f"unknown token %{found[1]} in {text!r}")
        return known[found[1]]

    return re.sub(r"%(.?)", value, text)


def _proxy(config: Mapping[str, Any], tokens: Mapping[str, str]) -> dict[str, str]:
    """Return the jump hosts or the command, whichever stands first."""
    first = next((key for key in config if key in ("proxyjump", "proxycommand")), "")
    value = str(config.get(first) or "none")
    if value.lower() == "none":
        return {"jump": "", "command": ""}
    if first == "proxyjump":
        return {"jump": _expand(_word(config, first), tokens), "command": ""}
    unsafe = [token for token in tokens.values() if "%" in value and shlex.quote(token) != token]
    if unsafe:
        raise ValueError(f"{unsafe[0]!r} cannot stand in ProxyCommand {value!r}")
    return {"jump": "", "command": _expand(value, tokens)}
