"""What the emulated boards are made of, and where they are kept once they are built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "bookworm"
EMULATOR_SUITE = "bookworm-backports"
"""QEMU before version 8 shows the host's /proc/cpuinfo to the board, and LiteRT then dies of a wrong choice."""

PACKAGES = ("?essential", "usr-is-merged", "mawk", "openssh-server", "openssh-sftp-server", "python3", "libstdc++6")
"""Python and sshd, and what every Debian has: apt itself needs the C++ library."""


@dataclass(frozen=True)
class Kind:
    """One architecture of boards.

    Attributes:
        architecture: As Debian calls it.
        triplet: The folder of its libraries.
        emulator: The program of QEMU that runs it.
        cpu: The core that is emulated where none is named.
        elf: The three fields by which its programs are known: class, byte order and machine.
        packages: What it has beside `PACKAGES`.
    """

    architecture: str
    triplet: str
    emulator: str
    cpu: str
    elf: tuple[int, int, int]
    packages: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    kind.architecture: kind
    for kind in (
        Kind("arm64", "aarch64-linux-gnu", "qemu-aarch64", "cortex-a72", (2, 1, 0xB7)),
        Kind("armhf", "arm-linux-gnueabihf", "qemu-arm", "cortex-a15", (1, 1, 0x28), ("python3-numpy", "libatomic1")),
    )
}
MADE_BY = ("recipe.py", "debian.py", "roots.py")


def cache() -> Path:
    """Where roots are kept: ``EDGEFERRY_BOARDS``, else below the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EDGEFERRY_BOARDS") or base / "edgeferry-boards")


def edition() -> str:
    """Name what this recipe makes: another recipe has another name."""
    sources = (Path(__file__).with_name(name).read_bytes() for name in MADE_BY)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]


def built(cache: Path) -> Path:
    """Where the roots of this recipe are."""
    return cache / edition()
