"""The bearer token: read from a private file or the environment, compared in constant time.

Source: RFC 6750, "The OAuth 2.0 Authorization Framework: Bearer Token Usage", section 2.1.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import MutableMapping
from pathlib import Path

from edgeferry_runtime.errors import MissingFileError, UsageError

VARIABLE = "EDGEFERRY_TOKEN"
LEAST = 16
"""Characters of a token at least: fewer can be guessed."""

_SYNTAX = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_MAKE = "make one: openssl rand -hex 32 > FILE && chmod 600 FILE"


def permits(token: str | None, header: str | bytes | None) -> bool:
    """Tell whether a request may enter.

    Args:
        token: What it must show; None lets everybody in.
        header: The value of its ``Authorization``, over gRPC of the metadata ``authorization``; None where it has none.
    """
    if token is None:
        return True
    shown = header.encode("utf-8", "surrogateescape") if isinstance(header, str) else header or b""
    scheme, _, credentials = shown.partition(b" ")
    return hmac.compare_digest(credentials.strip(), token.encode()) and scheme.lower() == b"bearer"


def find_token(file: Path | None, environment: MutableMapping[str, str]) -> str | None:
    """Return the token that the user gave in a file or the environment; None where there is none.

    Args:
        file: The file, which only its owner may read.
        environment: Loses the token, so that no child process inherits it.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If there are two, others can read the file, or it is no token.
    """
    told = environment.pop(VARIABLE, None)
    if file is None:
        return None if told is None else _checked(told, f"${VARIABLE}")
    if told is not None:
        raise UsageError("--token-file", f"was given together with ${VARIABLE}", "leave out one of them")
    return _checked(_read(file), f"--token-file {file}")


def _read(file: Path) -> str:
    if not file.is_file():
        raise MissingFileError(f"--token-file {file}", "no such file", _MAKE.replace("FILE", str(file)))
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise UsageError(f"--token-file {file}", f"can be read by others (mode {mode:o})", f"run: chmod 600 {file}")
    return file.read_text(encoding="utf-8", errors="replace")


def _checked(text: str, subject: str) -> str:
    token = text.strip()
    if len(token) < LEAST:
        raise UsageError(subject, f"has {len(token)} characters, fewer than {LEAST}", _MAKE)
    if not _SYNTAX.fullmatch(token):
        raise UsageError(subject, "holds other characters than letters, digits and -._~+/=", _MAKE)
    return token
