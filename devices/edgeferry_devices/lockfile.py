"""Which wheels were resolved for a platform: name, version and the SHA-256 that the index promised; beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.whole import write_private

ENDING = ".lock.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """One wheel.

    Attributes:
        name: The distribution.
        version: Its version.
        file: The wheel's name.
        sha256: Its content, as the index tells it.
        needs: The names of the distributions that it may require.
    """

    name: str
    version: str
    file: str
    sha256: str
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if PurePosixPath(self.file).name != self.file or not self.file.endswith(".whl"):
            raise ValueError(f"{self.file!r} is not the name of a wheel")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r} is no SHA-256")

    def state(self, folder: Path) -> str:
        """Tell whether the wheel in a folder is ``whole``, ``missing`` or ``changed``."""
        path = folder / self.file
        if not path.is_file():
            return "missing"
        return "whole" if sha256_file(path) == self.sha256 else "changed"


@dataclass(frozen=True)
class Lock:
    """What pip resolved some requirements to.

    Attributes:
        requirements: What it was asked for.
        pins: What it chose.
    """

    requirements: tuple[str, ...]
    pins: tuple[Pin, ...]

    def closure(self, requirements: Iterable[str]) -> list[Pin]:
        """Return the pins for some of the requirements, with whatever these need."""
        by_name = {canonical(pin.name): pin for pin in self.pins}
        wanted = [canonical(required) for required in requirements]
        found: dict[str, Pin] = {}
        while wanted:
            name = wanted.pop()
            if name in by_name and name not in found:
                found[name] = by_name[name]
                wanted += by_name[name].needs
        return [found[name] for name in sorted(found)]

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Lock:
        """Read it.

        Raises:
            ValueError: If it is damaged.
            OSError: If it cannot be read.
        """
        data = json.loads(path.read_text(encoding="utf-8"))
        try:
            pins = tuple(Pin(**{**pin, "needs": tuple(pin["needs"])}) for pin in data["pins"])
            return cls(tuple(data["requirements"]), pins)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no lock file") from error


def canonical(requirement: str) -> str:
    """Return the name of the distribution that a requirement names, in the one spelling that indexes compare."""
    found = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0] if found else "").strip("-").lower()


def from_report(report: Mapping[str, Any], requirements: Sequence[str]) -> Lock:
    """Read pip's installation report.

    Raises:
        ValueError: If it has no SHA-256 for something, or something is not a wheel.
        KeyError: If it is no such report.
    """
    return Lock(tuple(requirements), tuple(_pin(entry) for entry in report["install"]))


def _pin(entry: Mapping[str, Any]) -> Pin:
    told, source = entry["metadata"], entry["download_info"]
    needs = tuple(sorted({canonical(text) for text in told.get("requires_dist", ())}))
    file = PurePosixPath(unquote(urlsplit(source["url"]).path)).name
    return Pin(told["name"], told["version"], file, source["archive_info"].get("hashes", {}).get("sha256", ""), needs)


def find(folder: Path, requirements: Iterable[str]) -> Lock | None:
    """Return a lock of a folder that covers some requirements, the narrowest one; damaged ones do not count."""
    wanted = set(requirements)
    found = (_read_or_none(path) for path in sorted(folder.glob(f"*{ENDING}")))
    fitting = [lock for lock in found if lock is not None and wanted <= set(lock.requirements)]
    return min(fitting, key=lambda lock: len(lock.requirements), default=None)


def _read_or_none(path: Path) -> Lock | None:
    try:
        return Lock.read(path)
    except (OSError, ValueError):
        return None
