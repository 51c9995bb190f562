"""Names of hosts as Ansible writes them: with a port, and with ranges such as ``web[01:50]`` and ``db-[a:f]``."""

from __future__ import annotations

import re
import string

from edgeferry_runtime.errors import UsageError

MOST = 10_000
"""Hosts that one name may stand for."""

_WITH_PORT = re.compile(r"\[(?P<inner>.+)\]:(?P<iport>[0-9]+)|(?P<host>(?:[^:\[\]]|\[[^\]]*\])*):(?P<port>[0-9]+)")
_RANGE = re.compile(r"\[(?P<first>[^:\]]*):(?P<last>[^:\]]*)(?::(?P<step>[^\]]*))?\]")


def expand(pattern: str, where: str) -> tuple[list[str], int | None]:
    """Return the hosts that a name stands for, and their port where it says one.

    Args:
        pattern: The name.
        where: The file, for messages.

    Raises:
        UsageError: If a range is none, or stands for too many.
    """
    found = _WITH_PORT.fullmatch(pattern)
    if found:
        return _names(found["inner"] or found["host"], where), int(found["iport"] or found["port"])
    if pattern.endswith(":") or pattern == "---":
        raise UsageError(f"{where}: {pattern}", "is no name of a host", "correct it, or name a YAML file .yml")
    return _names(pattern, where), None


def _names(pattern: str, where: str) -> list[str]:
    names = [pattern]
    while "[" in names[0]:
        names = [name for each in names for name in _first_range(each, where)]
        if len(names) > MOST:
            raise UsageError(f"{where}: {pattern}", f"stands for more than {MOST:,} hosts", "give a shorter range")
    return names


def _first_range(pattern: str, where: str) -> list[str]:
    found = _RANGE.search(pattern)
    values = _values(found["first"] or "0", found["last"], found["step"] or "1") if found else []
    if not found or not values or "[" in pattern[: found.start()]:
        reason = "has a range that is none"
        raise UsageError(f"{where}: {pattern}", reason, "write it as [01:50], [a:f] or [0:100:10]")
    return [f"{pattern[: found.start()]}{value}{pattern[found.end() :]}" for value in values]


def _values(first: str, last: str, step: str) -> list[str]:
    """Return what a range goes through, its end included; nothing where it is none."""
    letters = string.ascii_letters
    if not (step.isascii() and step.isdecimal() and int(step)):
        return []
    if len(first) == len(last) == 1 and first in letters and last in letters:
        return list(letters[letters.index(first) : letters.index(last) + 1 : int(step)])
    if not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in (first, last)):
        return []
    width = len(first) if first[0] == "0" and len(first) > 1 else 0
    if width and len(last) != width:
        return []
    numbers = range(int(first), int(last) + 1, int(step))
    return [str(number).zfill(width) for number in numbers[: MOST + 1]]
