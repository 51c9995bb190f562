"""The program that the user gives, and the promise that it is the one that was meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.errors import MissingFileError, UnsafeFileError, UsageError

NAME = "benchmark_model"


@dataclass(frozen=True)
class Binary:
    """A ``benchmark_model`` whose content is what it should be; make one with `check_binary`.

    Attributes:
        path: The program, on this machine.
        sha256: The hash of its content.
    """

    path: Path
    sha256: str


def check_binary(path: Path, sha256: str | None) -> Binary:
    """Make sure that a program is the one that was meant, before it goes anywhere.

    Args:
        path: The program.
        sha256: The hash that it must have, from whoever built it.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If no hash is given, or none that can be one.
        UnsafeFileError: If the program has another one.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such program", "check the path of --benchmark-binary")
    if sha256 is None:
        fix = "give --benchmark-sha256 HEX, from whoever built it"
        raise UsageError(f"--benchmark-binary {path}", "would be run on a device unchecked", fix)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError("--benchmark-sha256", f"{sha256[:80]!r} is no SHA-256", "give its 64 hexadecimal digits")
    found = sha256_file(path)
    if found != sha256.lower():
        reason = f"has the SHA-256 {found}, not {sha256.lower()}"
        raise UnsafeFileError(path, reason, "do not run it before you know why")
    return Binary(path, found)
