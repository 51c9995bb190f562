"""Packages of Debian for any architecture, their signatures checked by apt, unpacked without being configured.

The system's own apt is left alone: lists, cache and status are in a folder of their own. Its mirror and proxy count.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from recipe import KEYRING, MIRROR

MERGED = ("bin", "sbin", "lib")
UNREAD = ("doc", "doc-base", "man", "info", "locale", "lintian", "bug", "zoneinfo", "perl")
"""Folders of usr/share that no test reads."""
RETRIES = 3


class Archive:
    """One suite of Debian's archive, for one architecture."""

    def __init__(self, folder: Path, suite: str, architecture: str) -> None:
        self.folder = folder
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
        settings = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Dir::Cache::archives": folder / "archives",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": RETRIES,
        }
        own = {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-"}
        self.options = [f"-o{name}={value}" for name, value in {**own, **settings}.items()]
        self.apt("update")

    def apt(self, *command: str) -> None:
        """Run apt-get; what it complains of is shown."""
        typed = ["apt-get", "-qq", *self.options, *command]
        subprocess.run(typed, env={**os.environ, "LC_ALL": "C"}, cwd=self.folder / "archives", check=True)

    def with_dependencies(self, packages: Sequence[str]) -> list[Path]:
        """Download packages and all that they depend on."""
        self.apt("install", "--yes", "--download-only", *packages)
        return sorted((self.folder / "archives").glob("*.deb"))

    def alone(self, packages: Sequence[str]) -> list[Path]:
        """Download packages and nothing else."""
        self.apt("download", *packages)
        return sorted((self.folder / "archives").glob("*.deb"))


def mirror() -> str:
    """Return the mirror of Debian that this machine uses already, else the general one."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    return mirror_of("\n".join(place.read_text() for place in places if place.is_file()))


def mirror_of(sources: str) -> str:
    """Return the first mirror of Debian among apt's sources, else the general one."""
    found = re.search(r"^(?:deb\s|URIs:).*?(https?://\S+/debian)/?(?:\s|$)", sources, re.MULTILINE)
    return found[1] if found else MIRROR


def unpack(packages: Sequence[Path], root: Path) -> None:
    """Unpack packages into a folder, in which /bin, /sbin and /lib are those of /usr."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    left_out = [f"--exclude=./usr/share/{name}/*" for name in UNREAD]
    tar = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root), *left_out]
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as reader:
            subprocess.run(tar, stdin=reader.stdout, check=True)
        if reader.returncode:
            raise subprocess.CalledProcessError(reader.returncode, reader.args)
