"""A fact: what to run on a device, and a pure parser of what that prints. One script asks for all of them at once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

HEAD = """\
LC_ALL=C; export LC_ALL
mark="$1"; flag="$3"
case "$2" in "~/"*) root="$HOME/${2#??}";; /*) root="$2";; *) root="$PWD/$2";; esac
shift 3
near="$root"
while [ ! -e "$near" ]; do near="${near%/*}"; [ -n "$near" ] || near=/; done
"""
"""What the commands may use: our folder, its nearest parent that exists, and the Pythons to ask as ``"$@"``."""


@dataclass(frozen=True)
class Fact:
    """One thing to find out.

    Attributes:
        name: The name of its section in what the script prints.
        command: For a POSIX shell; its complaints are dropped, and it may fail.
        parse: Turns what it printed into values by key, empty where it told nothing. It does nothing else.
    """

    name: str
    command: str
    parse: Callable[[str], Mapping[str, Any]]


def script(facts: Iterable[Fact], probe: str = "") -> str:
    """Return a script for the standard input of ``sh -s -- MARK FOLDER FLAG PYTHON...``: a section for each fact.

    It does not travel as an argument, because small SSH servers take no long command lines.

    Args:
        facts: What to ask.
        probe: A program that each Python runs with the flag. MARK, which is in no file, marks the sections.
    """
    asked = (
        f"printf '\\n@@%s {fact.name}\\n' \"$mark\"\n{{ {fact.command}\n}} 2>/dev/null </dev/null\n" for fact in facts
    )
    return f"{HEAD}probe={shlex.quote(probe)}\n{''.join(asked)}exit 0\n"


def sections(said: str, mark: str) -> dict[str, str]:
    """Split what the script printed; what a login shell says before it is dropped."""
    _, *parts = f"\n{said}".split(f"\n@@{mark} ")
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


def read(facts: Iterable[Fact], found: Mapping[str, str]) -> dict[str, Any]:
    """Parse the sections; where two facts tell the same, the first one counts."""
    values: dict[str, Any] = {}
    for fact in facts:
        told = fact.parse(found.get(fact.name, ""))
        values.update({key: value for key, value in told.items() if key not in values and value not in (None, "")})
    return values


def pairs(text: str, separator: str = " ") -> dict[str, str]:
    """Read lines of a key and a value; the first line of a key counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, mark, value = line.partition(separator)
        if mark and value.strip():
            found.setdefault(key.strip(), value.strip())
    return found


def number(text: str) -> int | None:
    """Read a whole number; None where it is none."""
    try:
        return int(text)
    except ValueError:
        return None
